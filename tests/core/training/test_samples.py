"""Samples of an epoch."""

from __future__ import annotations

import numpy as np
import pytest

from support.small import random_sequences
from unigrec.core.training.samples import TrainingSamples, thinned

WEIGHTS = np.random.default_rng(0).random(1000, np.float32)


@pytest.mark.parametrize("causal", [True, False])
def test_an_epoch_can_be_bounded_and_each_has_other_samples(causal):
    samples = TrainingSamples(random_sequences(60, 30, 12), history=4, causal=causal)
    counts = samples.pieces[:, 2]
    every = samples.batches(8, seed=1, epoch=0)
    assert sorted(np.concatenate(every).tolist()) == list(range(len(counts)))
    few = [samples.batches(8, seed=1, epoch=epoch, most=50) for epoch in range(20)]
    assert {len(batches) for batches in few} == {7}
    assert all(35 <= counts[np.concatenate(batches)].sum() <= 85 for batches in few)
    assert len({tuple(sorted(np.concatenate(batches).tolist())) for batches in few}) == 20
    assert len(set(np.concatenate([np.concatenate(batches) for batches in few]).tolist())) > 0.9 * len(counts)
    assert len(samples.batches(8, seed=1, epoch=0, most=10**9)) == len(every)


@pytest.mark.parametrize("causal", [True, False])
def test_thinned_histories_keep_the_order_of_what_is_left_and_its_true_targets(causal):
    samples = TrainingSamples(random_sequences(40, 30, 12), history=6, causal=causal)
    batch = samples[np.arange(len(samples.pieces))]
    thin = thinned(batch, 0.4, seed=1, step=2)
    assert thin.items.shape[1] == thin.lengths.max()
    assert 0.5 < thin.lengths.sum() / batch.lengths.sum() < 0.8
    assert (thin.counts >= 1).all()
    starts, ends, _ = samples.pieces.T
    first = 0
    for row, (length, count) in enumerate(zip(thin.lengths, thin.counts, strict=True)):
        positions = thin.positions[first : first + count]
        whole = samples.sequences.items
        assert thin.targets[first : first + count].tolist() == whole[positions].tolist()
        assert thin.items[row, length - count : length].tolist() == whole[positions - 1].tolist()
        left, own = thin.items[row, :length].tolist(), iter(whole[starts[row] : ends[row]].tolist())
        assert all(item in own for item in left)  # in this order
        assert not thin.items[row, length:].any()
        first += count
    assert first == len(thin.targets)


def test_rows_of_one_length_lose_equally_many_items_and_the_share_that_is_asked_for():
    samples = TrainingSamples(random_sequences(40, 30, 12), history=8, causal=True)
    batch = samples[np.flatnonzero(np.isin(samples.pieces[:, 1] - samples.pieces[:, 0], [1, 3, 6]))]
    lengths = np.array([thinned(batch, 0.3, seed=1, step=step).lengths for step in range(400)])
    for length in np.unique(batch.lengths):
        of_length = lengths[:, batch.lengths == length]
        assert (of_length == of_length[:, :1]).all()
        assert set(of_length[:, 0]) <= {max(int(0.7 * length), 1), int(0.7 * length) + 1}
        assert of_length.mean() == pytest.approx(max(0.7 * length, 1), abs=0.1)


def test_what_is_left_out_depends_on_seed_and_step_and_nothing_at_a_share_of_0():
    samples = TrainingSamples(random_sequences(40, 30, 12)._replace(weights=WEIGHTS), history=6, causal=True)
    batch = samples[np.arange(len(samples.pieces))]
    assert thinned(batch, 0.0, seed=1, step=2) is batch
    one, again, later, other = (thinned(batch, 0.4, *at) for at in ((1, 2), (1, 2), (1, 3), (2, 2)))
    assert all(np.array_equal(*pair) for pair in zip(one, again, strict=True))
    assert not any(np.array_equal(one.counts, another.counts) for another in (later, other))
    assert np.array_equal(one.weights, WEIGHTS[one.positions])
