"""Substitutes and complements: planted printers, inks and papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from support.small import sequences_of
from unigrec.core.retrieval.basket_counts import count_baskets
from unigrec.core.retrieval.cells import Cells
from unigrec.core.retrieval.prefix_tree import PrefixTree
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
    assert not found.counts.any()  # nobody had the new printer in a basket


def test_similar_items_share_the_longest_prefix_and_of_those_the_nearest_come_first():
    codes = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 1]])
    vectors = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), dim=1)
    found = similar(PrefixTree(codes), codes, vectors, item=0, k=3)
    assert found.items.tolist() == [2, 1, 4]
    assert found.shared.tolist() == [2, 1, 1]
    assert found.scores.tolist() == pytest.approx([0.0, 0.99504, 0.70711], abs=1e-4)
    allowed = np.arange(5) != 1
    assert similar(PrefixTree(codes), codes, vectors, 0, 9, allowed).items.tolist() == [2, 4, 3]


@pytest.mark.parametrize("added", [0, 3])
def test_similar_items_are_those_of_a_sort_of_all(added: int):
    generator = np.random.default_rng(added)
    codes = np.unique(generator.integers(0, 3, (40, 4)), axis=0)
    codes = codes[generator.permutation(len(codes))]
    vectors = F.normalize(torch.as_tensor(generator.standard_normal((len(codes), 3)).astype(np.float32)), dim=1)
    tree, allowed = PrefixTree(codes[: len(codes) - added]), generator.random(len(codes)) < 0.7
    for item in range(len(codes)):
        shared = np.cumprod(codes == codes[item], axis=1).sum(1)
        cosines = (vectors @ vectors[item]).double().numpy()
        order = [other for other in np.lexsort((-cosines, -shared)) if other != item and allowed[other]]
        for k in (1, 4, 60):
            found = similar(tree, codes, vectors, item, k, allowed)
            assert found.shared.tolist() == shared[order[:k]].tolist()
            assert found.scores.tolist() == pytest.approx(cosines[order[:k]].tolist(), abs=1e-6)


def test_a_new_printer_in_a_large_catalogue_is_compared_with_the_items_of_its_cells():
    tree = PrefixTree(CODES)
    cells = Cells(tree, [CONTENT])
    expected = complements(COUNTED, CODES, CONTENT, np.array([NEW_PRINTER, 0]), k=9)
    found = complements(COUNTED, CODES, CONTENT, np.array([NEW_PRINTER, 0]), k=9, cells=cells)
    assert found.items.tolist() == expected.items.tolist()
    assert found.scores.tolist() == pytest.approx(expected.scores.tolist())
    assert found.counts.tolist() == expected.counts.tolist()


@pytest.mark.parametrize("item", range(13))
def test_the_items_under_a_prefix(item: int):
    tree = PrefixTree(CODES)
    for length in range(3):
        expected = np.flatnonzero((CODES[:, :length] == CODES[item, :length]).all(1))
        assert sorted(tree.under(CODES[item, :length].tolist()).tolist()) == expected.tolist()
    assert tree.under([9]).tolist() == tree.under([0, 7]).tolist() == []
