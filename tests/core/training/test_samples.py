"""Samples of an epoch."""

from __future__ import annotations

import numpy as np
import pytest

from support.small import random_sequences
from unigrec.core.training.samples import TrainingSamples


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
