"""Substitutes and complements: planted printers, inks and papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from support.small import sequences_of
from unigrec.core.retrieval.basket_counts import count_baskets
from unigrec.core.retrieval.related import complements, similar

PRINTERS, INKS, PAPERS, NEW_PRINTER = range(4), range(4, 8), range(8, 12), 12
CODES = np.array([[0, i] for i in range(4)] + [[1, i] for i in range(4)] + [[2, i] for i in range(4)] + [[0, 9]])
# Printer i is bought with ink i, now and then with another printer; paper with everything.
BASKETS = [[i, 4 + i] for i in PRINTERS for _ in range(40)] + [[i, (i + 1) % 4] for i in PRINTERS for _ in range(20)]
BASKETS += [[8, i] for i in range(8) for _ in range(7)] + [[9, 10]] * 80
COUNTED = count_baskets(sequences_of(*BASKETS, items=13))
GENERATOR = torch.Generator().manual_seed(0)
KINDS = torch.randn(3, 16, generator=GENERATOR)
CONTENT = F.normalize(KINDS[CODES[:, 0]] + 0.2 * torch.randn(13, 16, generator=GENERATOR), dim=1)
CONTENT[12] = F.normalize(CONTENT[2] + 0.01 * torch.randn(16, generator=GENERATOR), dim=0)


@pytest.mark.parametrize("printer", PRINTERS)
def test_ink_goes_with_its_printer_and_another_printer_does_not(printer: int):
    found = complements(COUNTED, CODES, CONTENT, np.array([printer]), k=5)
    assert found.items[0] == 4 + printer
    assert found.counts[0].tolist() == [40]
    assert not set(found.items) & set(PRINTERS)
    assert not found.stand_ins.any()


def test_a_basket_of_two_counts_for_each_of_its_items():
    found = complements(COUNTED, CODES, CONTENT, np.array([0, 1]), k=2)
    assert set(found.items) == {4, 5}
    by_item = dict(zip(found.items.tolist(), found.counts.tolist(), strict=True))
    assert by_item == {4: [40, 0], 5: [0, 40]}


def test_what_is_in_the_basket_or_not_allowed_is_not_found():
    assert complements(COUNTED, CODES, CONTENT, np.array([0, 4]), k=13).items.tolist() == []
    allowed = np.arange(13) != 4
    assert 4 not in complements(COUNTED, CODES, CONTENT, np.array([0]), k=13, allowed=allowed).items


def test_a_new_printer_gets_the_ink_of_the_printer_that_is_like_it():
    found = complements(COUNTED, CODES, CONTENT, np.array([NEW_PRINTER]), k=3)
    assert found.stand_ins.tolist() == [True]
    assert found.items[0] == 6
    assert found.counts[0, 0] >= 40


def test_similar_items_share_the_longest_prefix_and_of_those_the_nearest_come_first():
    codes = np.array([[0, 0], [0, 1], [0, 0], [1, 0], [0, 1]])
    vectors = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), dim=1)
    found = similar(codes, vectors, item=0, k=3)
    assert found.items.tolist() == [2, 1, 4]
    assert found.shared.tolist() == [2, 1, 1]
    assert found.scores.tolist() == pytest.approx([0.0, 0.99504, 0.70711], abs=1e-4)
    assert similar(codes, vectors, 0, 9, np.array([True, False, True, True, True])).items.tolist() == [2, 4, 3]
