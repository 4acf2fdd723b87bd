"""Two versions that different users were shown: rates of hits, their difference, and what could have been found.

Users are the unit: they were assigned by chance, and what one of them does after one impression says something of what
the same one does after another. A rate is a ratio of sums over users; its variance is that of the delta method
(Deng et al., "Applying the Delta Method in Metric Analytics", KDD 2018). Whether two rates differ is asked with the
variance under "they do not": with a small share and few hits the test by each arm's own variance finds losses that are
not there (7 to 9 % instead of 5, and gains too rarely).

Shapes: U users of a version; any dimensions before are experiments of their own.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

TWO_SIDED, POWER = float(ndtri(0.975)), float(ndtri(0.8))  # quantiles of the normal distribution
FEWEST = 10.0  # expected users with a hit, and without one, per version: fewer, and the normal distribution is far off
MISMATCH_P = 0.001  # below, the split is not the one that was asked for
STEPS = 30  # of a fixed point
EXAMPLE_GAIN = 0.1  # relative, of the champion's rate: how many users would find it


class Arm(NamedTuple):
    """What the users of a version did.

    shown: (..., U) occasions of each user: 1, or the number of impressions. hits: (..., U) those with a hit.
    """

    shown: np.ndarray
    hits: np.ndarray

    @property
    def rate(self) -> np.ndarray:
        """(...) hits per occasion."""
        return self.hits.sum(-1) / self.shown.sum(-1)

    def variance(self, rate: np.ndarray) -> np.ndarray:
        """(...) of the rate, if the true one is `rate`."""
        left = self.hits - rate[..., None] * self.shown
        return (left**2).sum(-1) / self.shown.sum(-1) ** 2

    def figures(self) -> dict[str, float]:
        """Of one experiment: sums, the rate, its variance, and its 95 % interval."""
        rate = self.rate
        variance = float(self.variance(rate))
        reach = TWO_SIDED * math.sqrt(variance)
        return {
            "shown": float(self.shown.sum()),
            "hits": float(self.hits.sum()),
            "rate": float(rate),
            "variance": variance,
            "low": max(float(rate) - reach, 0.0),
            "high": min(float(rate) + reach, 1.0),
        }


class Difference(NamedTuple):
    """Challenger less champion, (...) each.

    error: standard error if there is no difference. low, high: 95 % interval. p: of such a difference or a larger one
    in either direction by chance. p_no_better: of such a gain or a larger one, if the challenger is no better.
    """

    difference: np.ndarray
    error: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    p_no_better: np.ndarray


def difference(champion: Arm, challenger: Arm) -> Difference:
    """The difference of both rates. Both arms have users with occasions."""
    old, new = champion.rate, challenger.rate
    pooled = (champion.hits.sum(-1) + challenger.hits.sum(-1)) / (champion.shown.sum(-1) + challenger.shown.sum(-1))
    found = new - old
    error = np.sqrt(champion.variance(pooled) + challenger.variance(pooled))
    own = TWO_SIDED * np.sqrt(champion.variance(old) + challenger.variance(new))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(error > 0.0, found / error, 0.0)
    above = ndtr(-z)
    return Difference(found, error, found - own, found + own, 2.0 * np.minimum(above, 1.0 - above), above)


def p_worse_by(loss: float, champion: tuple[float, float], challenger: tuple[float, float]) -> float:
    """The chance of rates as good for the challenger as these, if it truly loses the share `loss` of the champion's.

    Args:
        champion, challenger: rate and its variance.
    """
    kept = 1.0 - loss
    error = math.sqrt(challenger[1] + kept**2 * champion[1])
    margin = challenger[0] - kept * champion[0]
    return float(ndtr(-margin / error)) if error > 0.0 else float(margin <= 0.0)


def is_enough(champion: Arm, challenger: Arm) -> bool:
    """Whether both versions have users enough for a test, by user: if they did not differ."""
    rate = float((champion.hits.sum() + challenger.hits.sum()) / (champion.shown.sum() + challenger.shown.sum()))
    smaller = min(champion.shown.sum(), challenger.shown.sum())
    return bool(smaller * min(rate, 1.0 - rate) >= FEWEST)


def mismatch(shares: np.ndarray, is_challenger: np.ndarray) -> dict[str, Any]:
    """Whether the users were split as they should have been: a sample ratio mismatch says that the figures are biased.

    Args:
        shares: (U,) the share of the challenger when the user was first shown something. is_challenger: (U,).

    Returns:
        `expected` users of the challenger, `found`, `p` of such a split or a more uneven one, `is_mismatch`.
    """
    expected, spread = float(shares.sum()), math.sqrt(float((shares * (1.0 - shares)).sum()))
    found = int(is_challenger.sum())
    p = 1.0 if not spread else 2.0 * float(ndtr(-abs(found - expected) / spread))
    return {"expected": expected, "found": found, "p": p, "is_mismatch": p < MISMATCH_P}


def power(rate: float, old: int, new: int) -> dict[str, float | None]:
    """Which gain over a rate of users an experiment finds with 80 % probability, at a two-sided 5 %.

    Args:
        rate: of the champion, by user. old, new: users of the champion and of the challenger.

    Returns:
        `smallest`: the gain; `relative`: of the rate; `users_for_a_tenth`: users of both versions, split like these,
        that a gain of a tenth of the rate would need. The last two are null without a hit.
    """
    smallest = 0.0
    for _ in range(STEPS):  # the gain itself changes the variance a little
        smallest = _reach(rate, smallest, old, new)
    if not rate:
        return {"smallest": smallest, "relative": None, "users_for_a_tenth": None}
    gain, share = EXAMPLE_GAIN * rate, new / (old + new)
    users = math.ceil((_reach(rate, gain, 1.0 - share, share) / gain) ** 2)
    return {"smallest": smallest, "relative": smallest / rate, "users_for_a_tenth": float(users)}


def _reach(rate: float, gain: float, old: float, new: float) -> float:
    """The gain that is found with 80 % probability, with the variance of another one."""
    better = min(rate + gain, 1.0)
    pooled = (old * rate + new * better) / (old + new)
    alike = math.sqrt(pooled * (1.0 - pooled) * (1.0 / old + 1.0 / new))
    own = math.sqrt(rate * (1.0 - rate) / old + better * (1.0 - better) / new)
    return TWO_SIDED * alike + POWER * own
