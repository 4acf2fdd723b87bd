"""Bootstrap intervals over users.

Shapes: U users.
"""

from __future__ import annotations

import numpy as np

DRAWS_AT_ONCE = 2**21  # counts that a bootstrap holds in memory at a time


def bootstrap_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of U values drawn with replacement: (U,) -> (resamples,).

    The numbers of draws of the *distinct* values follow a multinomial distribution, and gains of ranked lists take few
    values. To draw these numbers gives the same distribution as to draw users one by one, in a fraction of the time.
    """
    distinct, counts = np.unique(values, return_counts=True)
    shares, generator = counts / len(values), np.random.default_rng(seed)
    at_once = max(1, DRAWS_AT_ONCE // len(distinct))
    means = np.empty(resamples)
    for start in range(0, resamples, at_once):
        piece = means[start : start + at_once]
        piece[:] = generator.multinomial(len(values), shares, size=len(piece)) @ distinct / len(values)
    return means


def paired_bootstrap(candidate: np.ndarray, reference: np.ndarray, resamples: int, seed: int) -> dict[str, float]:
    """Paired bootstrap of mean(candidate - reference) over the same users.

    Returns:
        `difference`, `low` and `high` (95 % interval; either bound alone holds with 97.5 %), and `p_not_better`: the
        share of resamples in which the candidate is not better.
    """
    assert candidate.shape == reference.shape, "the same users in the same order"
    difference = candidate - reference
    means = bootstrap_means(difference, resamples, seed)
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "difference": float(difference.mean()),
        "low": float(low),
        "high": float(high),
        "p_not_better": float((means <= 0).mean()),
    }
