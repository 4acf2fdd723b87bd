"""The teacher's best items by an index."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from support.small import random_sequences
from unigrec.base.errors import UnigrecError
from unigrec.core.models.ensemble import TeacherEnsemble
from unigrec.core.models.sasrec import SASRec, States
from unigrec.core.training import teacher_index
from unigrec.core.training.samples import TrainingSamples, make_samples
from unigrec.core.training.teacher_index import TeacherIndex
from unigrec.core.training.teacher_items import TeacherItems, search_exactly, states_before_targets

ITEMS, HISTORY = 1500, 6
CPU = torch.device("cpu")
SEQUENCES = random_sequences(40, ITEMS, 11)
SAMPLES = TrainingSamples(SEQUENCES, HISTORY, causal=True)


def teacher_of(members: int, repeat_bias: bool) -> TeacherEnsemble:
    torch.manual_seed(0)
    networks = [
        SASRec(ITEMS, 8, blocks=1, heads=2, history=6, dropout=0.0, repeat_bias=repeat_bias) for _ in range(members)
    ]
    for network in networks:
        torch.nn.init.normal_(network.item_embedding.weight)
        if network.repeat_bias is not None:
            torch.nn.init.uniform_(network.repeat_bias.weight, 5.0, 9.0)  # the history's items are among the best
    return TeacherEnsemble(networks).eval()


def states_of(teacher: TeacherEnsemble):
    batch = make_samples(SAMPLES[np.arange(len(SAMPLES.pieces))], CPU)
    return states_before_targets(teacher, batch.items[batch.history], batch.lengths, batch.counts)


@pytest.mark.parametrize(("members", "repeat_bias"), [(1, False), (1, True), (3, True)])
def test_an_index_that_reads_all_its_lists_is_the_exact_search(members, repeat_bias, monkeypatch):
    pytest.importorskip("faiss", reason="needs requirements-index.lock")
    monkeypatch.setattr(teacher_index, "READ", 10_000)
    teacher = teacher_of(members, repeat_bias)
    expected_items, expected = search_exactly(teacher, states_of(teacher), ITEMS, 20)
    items, scores = TeacherIndex(teacher).best(states_of(teacher), 20)
    assert torch.equal(items, expected_items)
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("repeat_bias", [False, True])
def test_what_a_few_lists_hold_has_exact_scores_and_the_history_is_found_in_any_case(repeat_bias, monkeypatch):
    pytest.importorskip("faiss", reason="needs requirements-index.lock")
    monkeypatch.setattr(teacher_index, "READ", 1)
    teacher = teacher_of(2, repeat_bias)
    states = states_of(teacher)
    items, scores = TeacherIndex(teacher).best(states, 400)
    assert (scores == float("-inf")).any(), "a list is smaller than that"
    exact = teacher.block_scores(states, slice(0, ITEMS))
    found = scores > float("-inf")
    torch.testing.assert_close(scores[found], exact.gather(1, items)[found])
    for row, values in zip(items.tolist(), scores.tolist(), strict=True):
        kept = [item for item, value in zip(row, values, strict=True) if value > float("-inf")]
        assert len(set(kept)) == len(kept)
        assert values == sorted(values, reverse=True)
    if repeat_bias:
        best = exact.argmax(1)
        assert (items[:, 0] == best).all()


def test_the_first_item_is_not_taken_for_one_that_lists_lack(monkeypatch):
    pytest.importorskip("faiss", reason="needs requirements-index.lock")
    monkeypatch.setattr(teacher_index, "READ", 1)
    teacher, read = teacher_of(1, repeat_bias=True), torch.zeros(1, HISTORY, dtype=torch.int64)
    last = torch.nn.functional.one_hot(torch.tensor([HISTORY - 1]), HISTORY)
    # Item 0 lies in no list that is read, and these lists hold fewer items than asked for.
    states = [States(-10.0 * teacher.item_vectors()[:1].detach(), read, 1e4 * last)]
    items, scores = TeacherIndex(teacher).best(states, 400)
    assert scores[0, -1] == float("-inf")
    assert items[0, 0] == 0
    assert scores[0, 0] == scores.max() > 0


def test_a_training_reads_the_same_bits_from_an_index_that_is_made_again():
    pytest.importorskip("faiss", reason="needs requirements-index.lock")
    teacher = teacher_of(1, repeat_bias=True)
    first, second = (TeacherItems(teacher, SAMPLES, 20, CPU, search="index") for _ in range(2))
    batch = make_samples(SAMPLES[np.arange(len(SAMPLES.pieces))], CPU)
    assert torch.equal(first.after(batch).items, second.after(batch).items)
    assert torch.equal(first.after(batch).probabilities, second.after(batch).probabilities)
    torch.testing.assert_close(first.after(batch).probabilities.sum(1), torch.ones(len(batch.targets)))


def test_without_faiss_an_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UnigrecError, match=r"pip install -r requirements-index\.lock"):
        TeacherIndex(teacher_of(1, repeat_bias=False))
