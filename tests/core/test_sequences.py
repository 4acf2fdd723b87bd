"""The leave-one-out split, windows and batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.small import few, random_sequences, sequences_of
from unigrec.core import sequences as module
from unigrec.core.sequences import (
    POOL,
    SECONDS_PER_DAY,
    Sequences,
    bucketed_batches,
    chunks_by_length,
    in_chunks,
    integer_type,
    pad_rows,
    sample,
    split_by_total,
)

# Users of 5, 2, 3 and 1 interactions; every interaction has a different item.
FOUR = sequences_of([0, 1, 2, 3, 4], [5, 6], [7, 8, 9], [10], items=11)


def test_last_item_is_test_last_but_one_validation_and_the_rest_training():
    users = FOUR.evaluation_users()
    assert users.tolist() == [0, 2]
    test, validation = FOUR.held_out(users, "test", 10), FOUR.held_out(users, "validation", 10)
    assert test.targets.tolist() == [4, 9]
    assert test.items.tolist() == [[0, 1, 2, 3], [7, 8, 0, 0]]
    assert validation.targets.tolist() == [3, 8]
    assert validation.items.tolist() == [[0, 1, 2], [7, 0, 0]]
    assert validation.lengths.tolist() == [3, 1]


def test_users_with_fewer_than_three_interactions_are_for_training_only():
    assert set(FOUR.items[FOUR.is_training()]) == {0, 1, 2, 5, 6, 7, 10}
    assert FOUR.train_counts().tolist() == [1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 1]


def test_every_prefix_of_a_training_sequence_predicts_its_next_item():
    batch = FOUR.segment_batch(FOUR.window_segments(history=10))
    pairs = [
        (tuple(items[:length].tolist()), int(target))
        for items, length, target in zip(batch.items, batch.lengths, batch.targets, strict=True)
    ]
    assert pairs == [((0,), 1), ((0, 1), 2), ((5,), 6)]


def test_histories_are_cut_to_their_last_items_and_padded_with_zero_on_the_right():
    batch = FOUR.held_out(np.array([0, 2]), "test", history=2)
    assert batch.items.tolist() == [[2, 3], [7, 8]]
    assert FOUR.segment_batch(FOUR.window_segments(history=1)).items.tolist() == [[0], [1], [5]]


def test_seen_is_uncut():
    items, lengths = FOUR.seen(np.array([0, 2]), "test")
    assert items.tolist() == [[0, 1, 2, 3], [7, 8, 0, 0]]
    assert lengths.tolist() == [4, 2]


def test_a_teachers_rows_hold_every_training_item_and_their_targets():
    items, lengths = FOUR.teacher_batch(FOUR.segments(history=1))
    assert items.tolist() == [[0, 1], [1, 2], [5, 6]]
    items, lengths = FOUR.teacher_batch(FOUR.segments(history=8))
    assert items.tolist() == [[0, 1, 2], [5, 6, 0]]
    assert lengths.tolist() == [3, 2]


def distinct_sequences(users: int, longest: int, seed: int) -> Sequences:
    """Every interaction has a different item, so that a leak is visible."""
    drawn = random_sequences(users, 10, longest, seed)
    return Sequences(np.arange(len(drawn.items)), drawn.offsets, len(drawn.items))


@few
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 6))
def test_held_out_items_never_reach_training(seed: int, users: int, history: int):
    sequences = distinct_sequences(users, 7, seed)
    evaluated = sequences.evaluation_users()
    hidden = {int(sequences.items[sequences.offsets[user + 1] - back]) for user in evaluated for back in (1, 2)}
    windows = sequences.segment_batch(sequences.window_segments(history))
    trained = set(windows.items[windows.items != 0].tolist()) | set(windows.targets.tolist())
    items, lengths = sequences.teacher_batch(sequences.segments(history))
    trained |= set(items[np.arange(items.shape[1]) < lengths[:, None]].tolist())
    assert not hidden & trained
    if len(evaluated):
        validation = sequences.held_out(evaluated, "validation", 100)
        assert not set(validation.items[validation.items != 0].tolist()) & hidden


@few
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 6))
def test_windows_count_one_for_each_training_item_but_the_first_and_stay_within_their_user(
    seed: int, users: int, history: int
):
    sequences = distinct_sequences(users, 7, seed)
    training = sequences.train_ends - sequences.offsets[:-1]
    windows = sequences.windows()
    assert len(windows) == (training - 1).clip(0).sum()
    batch = sequences.segment_batch(sequences.window_segments(history))
    for items, length, target in zip(batch.items, batch.lengths, batch.targets, strict=True):
        start = sequences.offsets[np.searchsorted(sequences.offsets, target, side="right") - 1]
        assert items[:length].tolist() == list(range(max(start, target - history), target))
        assert (items[length:] == 0).all()


@few
@given(st.integers(0, 10_000), st.integers(0, 900), st.integers(1, 9), st.integers(0, 5))
def test_batches_are_a_permutation_of_the_samples(seed: int, samples: int, batch_size: int, epoch: int):
    lengths = np.random.default_rng(seed).integers(1, 20, samples)
    batches = bucketed_batches(lengths, batch_size, seed, epoch)
    assert len(batches) == -(-samples // batch_size)
    assert all(len(batch) <= batch_size for batch in batches)
    assert sorted(index for batch in batches for index in batch.tolist()) == list(range(samples))


@few
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 6))
def test_segments_hold_each_training_target_once_with_at_least_half_the_history_there_is(
    seed: int, users: int, history: int
):
    sequences = distinct_sequences(users, 17, seed)
    pieces = sequences.segments(history)
    found = {}
    for piece in pieces:
        batch = sequences.segment_batch(piece[None])
        (items,), (length,), (count,) = batch.items, batch.lengths, batch.counts
        assert length <= history
        for place, target in enumerate(batch.targets.tolist()):
            assert target not in found
            found[target] = items[: length - count + place + 1].tolist()
    assert sorted(found) == sequences.windows().tolist()
    for target, before in found.items():
        start = sequences.offsets[np.searchsorted(sequences.offsets, target, side="right") - 1]
        assert before == list(range(target - len(before), target))
        assert len(before) >= min(target - start, history - max(history // 2, 1) + 1, history)


def test_rows_with_several_samples_fill_batches_by_their_samples():
    counts = np.random.default_rng(0).integers(1, 20, 500)
    batches = bucketed_batches(counts, 64, 3, 0, counts)
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(500))
    sizes = [counts[batch].sum() for batch in batches]
    assert max(sizes) < 64 + 20
    assert np.median(sizes) == pytest.approx(64, abs=10)


def test_batches_depend_on_seed_and_epoch_only():
    lengths = np.random.default_rng(0).integers(1, 20, 300)

    def order(seed: int, epoch: int) -> list[list[int]]:
        np.random.seed(len(str(epoch)))  # noqa: NPY002 - the global generator must not matter
        return [batch.tolist() for batch in bucketed_batches(lengths, 16, seed, epoch)]

    assert order(1, 10) == order(1, 10)
    assert order(1, 10) != order(1, 11)
    assert order(1, 10) != order(2, 10)


def test_batches_hold_samples_of_near_equal_length_in_no_order_of_length():
    lengths = np.random.default_rng(0).integers(1, 21, 32 * POOL)
    batches = bucketed_batches(lengths, 32, seed=0, epoch=0)
    spread = [np.ptp(lengths[batch]) for batch in batches]
    assert max(spread) <= 2
    means = [lengths[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (4, [4]), (5, [4, 1])])
def test_chunks_keep_the_order(count: int, sizes: list[int]):
    chunks = list(in_chunks(np.arange(count), 4))
    assert [len(chunk) for chunk in chunks] == sizes
    assert [index for chunk in chunks for index in chunk.tolist()] == list(range(count))


def test_chunks_by_length_are_all_rows_the_shortest_first():
    lengths = np.array([3, 1, 2, 1, 5])
    assert [rows.tolist() for rows in chunks_by_length(lengths, 2)] == [[1, 3], [2, 0], [4]]


def test_rows_are_padded_on_the_right():
    padded, lengths = pad_rows([[3, 4], [], [5]], fill=-1)
    assert (padded.tolist(), lengths.tolist()) == ([[3, 4], [-1, -1], [5, -1]], [2, 0, 1])
    assert pad_rows([], fill=0)[0].shape == (0, 0)


def test_a_sample_is_the_same_for_the_same_seed_and_keeps_the_order():
    values = np.arange(0, 200, 2)
    first, again, other = (sample(values, 20, seed).tolist() for seed in (1, 1, 2))
    assert first == again == sorted(set(first))
    assert set(first) <= set(values.tolist())
    assert (len(first), first != other) == (20, True)
    assert sample(values, 100, 1) is values


def test_with_event_types_validation_lies_where_it_is_said_and_the_test_reads_what_is_between():
    weights = np.array([0, 1, 2, 1, 1, 1, 3, 4], np.float32)
    events = Sequences(np.arange(8), np.array([0, 6, 8]), 8, weights=weights, validation=np.array([3, -1]))
    users = events.evaluation_users()
    assert users.tolist() == [0]
    validation, test = (events.held_out(users, split, 10) for split in ("validation", "test"))
    assert (validation.items.tolist(), validation.targets.tolist()) == ([[0, 1, 2]], [3])
    assert (test.items.tolist(), test.targets.tolist()) == ([[0, 1, 2, 3, 4]], [5])
    assert events.windows().tolist() == [1, 2, 7]
    for pieces in (events.segments(10), events.window_segments(10)):
        batch = events.segment_batch(pieces)
        assert dict(zip(batch.targets.tolist(), batch.weights.tolist(), strict=True)) == {1: 1, 2: 2, 7: 4}
    items, _ = events.teacher_batch(events.segments(10))
    assert events.teacher_weights(events.segments(10)).shape == items.shape
    assert events.teacher_weights(events.segments(10)).tolist() == [[0, 1, 2], [3, 4, 0]]


@st.composite
def logs(draw) -> Sequences:
    """Any log, with users of no interaction too, with and without times and a place of the validation item."""
    lengths = np.array(draw(st.lists(st.integers(0, 30), min_size=1, max_size=8)))
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    offsets, size = np.r_[0, lengths.cumsum()], int(lengths.sum())
    validation = None
    if draw(st.booleans()):
        places = offsets[:-1] + generator.integers(0, np.maximum(lengths - 1, 1))
        validation = np.where((lengths >= 2) & (generator.random(len(lengths)) < 0.8), places, -1)
    steps = draw(st.sampled_from([0, 1, SECONDS_PER_DAY // 3]))
    times = np.cumsum(generator.integers(0, 3, size)) * steps - 5 * SECONDS_PER_DAY
    items = generator.integers(0, 5, size).astype(np.int32)
    return Sequences(items, offsets, 5, timestamps=times, validation=validation)


def looped_segments(sequences: Sequences, history: int) -> list[tuple[int, int, int]]:
    """`Sequences.segments`, user by user."""
    pieces, half = [], max(history // 2, 1)
    for start, end in zip(sequences.offsets[:-1].tolist(), sequences.train_ends.tolist(), strict=True):
        done = start  # the last target that belongs to a piece
        while done < end - 1:
            last = min(end - 1, start + history) if done == start else min(end - 1, done + half)
            pieces.append((max(start, last - history), last, last - done))
            done = last
    return pieces


@few
@given(logs(), st.integers(1, 12))
def test_what_is_found_for_all_users_at_once_is_what_a_loop_over_them_finds(log: Sequences, history: int):
    starts, ends, train_ends = (part.tolist() for part in (log.offsets[:-1], log.offsets[1:], log.train_ends))
    places = [range(start, end) for start, end in zip(starts, train_ends, strict=True)]
    targets = [place for own in places for place in own[1:]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_ONCE", 7)
        assert list(map(tuple, log.segments(history).tolist())) == looped_segments(log, history)
        assert np.flatnonzero(log.is_training()).tolist() == [place for own in places for place in own]
        assert log.windows().tolist() == targets
        of = dict.fromkeys(targets, 0) | {place: own[0] for own in places for place in own}
        assert log.window_segments(history).tolist() == [[max(of[t], t - history), t, 1] for t in targets]
        items = log.items[log.is_training()]
        assert log.train_counts().tolist() == np.bincount(items, minlength=5).tolist()
        days = (log.timestamps // SECONDS_PER_DAY).tolist()
        several = any(len(set(days[start:end])) > 1 for start, end in zip(starts, ends, strict=True))
        found = log.days()
        assert (found is None) == (not several)
        assert found is None or found.tolist() == days
    for found in (log.segments(history), log.windows(), log.window_segments(history)):
        assert found.dtype == np.int32


@few
@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 30))
def test_pieces_by_total_are_the_same_in_any_number_of_passes(counts: list[int], size: int):
    rows, number = np.arange(len(counts)), np.array(counts, np.int32)
    piece = (np.cumsum(number) - 1) // size
    expected = np.split(rows, np.flatnonzero(np.diff(piece)) + 1) if counts else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_ONCE", 7)
        found = split_by_total(rows, number, size)
    assert [part.tolist() for part in found] == [part.tolist() for part in expected]


def test_batches_are_those_of_a_permutation_of_64_bits_and_take_half_of_its_memory():
    lengths = np.random.default_rng(0).integers(1, 20, 3000)
    order = np.random.default_rng([5, 2]).permutation(len(lengths))
    batches = bucketed_batches(lengths, 16, seed=5, epoch=2)
    assert {batch.dtype for batch in batches} == {np.dtype(np.int32)}
    pools = [frozenset(order[start : start + 16 * POOL].tolist()) for start in range(0, len(order), 16 * POOL)]
    assert all(any(pool.issuperset(batch.tolist()) for pool in pools) for batch in batches)


def test_a_log_of_more_than_two_billion_rows_has_larger_integers():
    assert integer_type(2**31 - 1) is np.int32
    assert integer_type(2**31) is np.int64
    late = Sequences(np.zeros(4, np.int32), np.array([0, 4]), 1, timestamps=np.array([0, 1, 2, 3]) * 2**48)
    assert late.days().tolist() == [place * 2**48 // SECONDS_PER_DAY for place in range(4)]


@few
@given(logs(), st.integers(1, 6))
def test_batches_are_of_64_bits_and_the_same_whatever_holds_the_items(log: Sequences, history: int):
    wide, pieces = log._replace(items=log.items.astype(np.int64)), log.segments(history)
    evaluated = log.evaluation_users()
    for one, other in (
        (log.segment_batch(log.segments(history)), wide.segment_batch(wide.segments(history))),
        (log.held_out(evaluated, "validation", history), wide.held_out(evaluated, "validation", history)),
        (log.teacher_batch(pieces), wide.teacher_batch(pieces)),
    ):
        for part, expected in zip(one, other, strict=True):
            assert part is expected or (part.dtype, part.tolist()) == (np.int64, expected.tolist())
