"""The teacher's best items after every training sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support.small import random_sequences
from unigrec.base.errors import UnigrecError
from unigrec.core.models.ensemble import TeacherEnsemble
from unigrec.core.models.sasrec import SASRec
from unigrec.core.training import teacher_items as module
from unigrec.core.training.samples import TrainingSamples, make_samples, thinned
from unigrec.core.training.teacher_items import TeacherItems, largest

ITEMS, HISTORY = 12, 4
CPU = torch.device("cpu")
SEQUENCES = random_sequences(9, ITEMS, 11)


def small_teacher(members: int) -> TeacherEnsemble:
    torch.manual_seed(0)
    networks = [SASRec(ITEMS, 8, blocks=1, heads=2, history=6, dropout=0.5, repeat_bias=True) for _ in range(members)]
    for network in networks:
        torch.nn.init.normal_(network.item_embedding.weight)
        torch.nn.init.normal_(network.repeat_bias.weight)
    return TeacherEnsemble(networks).eval()


@pytest.mark.parametrize("kept_bytes", [module.KEPT_BYTES, 0])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("members", "count"), [(1, 5), (2, 99)])
def test_every_target_has_the_teachers_best_items_after_its_own_history(
    monkeypatch, kept_bytes, causal, members, count
):
    monkeypatch.setattr(module, "KEPT_BYTES", kept_bytes)  # 0: found batch by batch
    monkeypatch.setitem(module.SCORES_AT_A_TIME, "cpu", 35)  # several rounds
    monkeypatch.setattr(module, "ITEMS_AT_A_TIME", 5)  # in several blocks
    monkeypatch.setattr(module, "SCORES_OF_A_BLOCK", 5)
    teacher, samples = small_teacher(members), TrainingSamples(SEQUENCES, HISTORY, causal)
    found = TeacherItems(teacher, samples, count, CPU)
    kept = min(count, ITEMS)
    for rows in np.array_split(np.random.default_rng(1).permutation(len(samples.pieces)), 4):
        batch = samples[rows]
        best = found.after(make_samples(batch, CPU))
        assert best.items.shape == best.probabilities.shape == (len(batch.targets), kept)
        for number, position in enumerate(batch.positions):
            assert SEQUENCES.items[position] == batch.targets[number]
            row = int(np.searchsorted(np.cumsum(batch.counts), number, side="right"))
            start, end, _ = samples.pieces[rows[row]]
            piece, length = torch.as_tensor(SEQUENCES.items[start:end])[None], torch.tensor([end - start])
            place = torch.arange(end - start)[None] == position - start - 1
            states = teacher.states_at(piece, length, place)
            expected = teacher.block_scores(states, slice(0, ITEMS))[0].topk(kept)
            assert best.items[number].tolist() == expected.indices.tolist()
            torch.testing.assert_close(best.probabilities[number], expected.values.softmax(-1))


def test_a_student_that_reads_more_than_its_teacher_is_an_error():
    teacher = small_teacher(1)
    longest = int(SEQUENCES.lengths.max())
    TeacherItems(teacher, TrainingSamples(SEQUENCES, teacher.history, True), 5, CPU)
    assert longest - 3 > teacher.history
    with pytest.raises(UnigrecError, match=rf"no more than {teacher.history}; raise teacher\.history"):
        TeacherItems(teacher, TrainingSamples(SEQUENCES, longest, True), 5, CPU)


@pytest.mark.parametrize("members", [1, 2])
def test_of_thinned_histories_the_items_found_before_are_scored_after_what_is_left(members):
    teacher, samples = small_teacher(members), TrainingSamples(SEQUENCES, HISTORY, causal=True)
    found = TeacherItems(teacher, samples, ITEMS, CPU, histories_vary=True)
    thin = thinned(samples[np.arange(len(samples.pieces))], 0.4, seed=0, step=0)
    best = found.after(make_samples(thin, CPU))
    ends = np.cumsum(thin.counts)
    for number in range(len(thin.targets)):
        row = int(np.searchsorted(ends, number, side="right"))
        place = torch.arange(thin.items.shape[1])[None] == thin.lengths[row] - (ends[row] - number)
        states = teacher.states_at(*(torch.as_tensor(part[row : row + 1]) for part in thin[:2]), place)
        expected = teacher.block_scores(states, slice(0, ITEMS))[0, best.items[number]].softmax(-1)
        torch.testing.assert_close(best.probabilities[number], expected)


def test_they_are_the_same_bits_whatever_was_asked_before():
    teacher, samples = small_teacher(1), TrainingSamples(SEQUENCES, HISTORY, causal=True)
    first, second = (TeacherItems(teacher, samples, 5, CPU) for _ in range(2))
    batch = make_samples(samples[np.arange(len(samples.pieces))], CPU)
    assert torch.equal(first.after(batch).probabilities, second.after(batch).probabilities)
    one = make_samples(samples[np.array([3])], CPU)
    at = np.flatnonzero(np.isin(batch.positions, one.positions))
    assert torch.equal(first.after(one).probabilities, first.after(batch).probabilities[at])


def test_too_many_to_be_kept_take_no_memory_and_are_the_same_bits_for_the_same_batch(monkeypatch):
    teacher, samples = small_teacher(1), TrainingSamples(SEQUENCES, HISTORY, causal=True)
    targets = int(samples.pieces[:, 2].sum())
    batch = make_samples(samples[np.arange(0, len(samples.pieces), 2)], CPU)
    monkeypatch.setattr(module, "KEPT_BYTES", 8 * targets * 5)
    assert TeacherItems(teacher, samples, 5, CPU).kept
    monkeypatch.setattr(module, "KEPT_BYTES", 8 * targets * 5 - 1)
    first, second = (TeacherItems(teacher, samples, 5, CPU) for _ in range(2))
    assert not any(isinstance(value, np.ndarray) for value in vars(first).values())
    second.after(make_samples(samples[np.array([3])], CPU))
    assert torch.equal(first.after(batch).probabilities, second.after(batch).probabilities)


@pytest.mark.parametrize("columns", [3, 11, 12, 24, 29, 500])
def test_the_largest_are_those_that_a_sort_finds(monkeypatch, columns):
    monkeypatch.setattr(module, "GROUP", 2)
    scores = torch.randn(40, columns, generator=torch.Generator().manual_seed(columns))
    scores[0, : columns // 2] = -torch.inf
    expected = scores.sort(dim=1, descending=True)
    values, found = largest(scores, 3)
    assert torch.equal(values, expected.values[:, :3])
    assert torch.equal(scores.gather(1, found), values)
    assert torch.equal(found[1:], expected.indices[1:, :3])
