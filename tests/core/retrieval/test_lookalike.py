import numpy as np
import pytest
import torch

from unigrec.core.retrieval.lookalike import auc, lookalikes


def test_planted_tastes_are_found_and_noise_is_not():
    generator = np.random.default_rng(0)
    taste = generator.integers(0, 2, 300)
    states = torch.as_tensor(np.column_stack([taste + 0.1 * generator.normal(size=300), generator.normal(size=300)]))
    is_seed = (taste == 1) & (generator.random(300) < 0.3)  # some of those with the taste
    found = lookalikes(states.float(), is_seed, seed=1)
    others = np.flatnonzero(~is_seed)
    best = others[np.argsort(-found.scores[others])[: int((taste[others] == 1).sum())]]
    assert (taste[best] == 1).mean() > 0.95
    assert found.auc > 0.7
    noise = lookalikes(torch.as_tensor(generator.normal(size=(300, 4))).float(), is_seed, seed=1)
    assert noise.auc < 0.65


def test_auc_by_hand():
    assert auc(np.array([3.0, 1.0, 2.0]), np.array([1, 0, 0])) == 1.0
    assert auc(np.array([1.0, 1.0, 0.0]), np.array([1, 0, 0])) == pytest.approx(0.75)
