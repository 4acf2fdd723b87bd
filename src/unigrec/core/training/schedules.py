"""Learning rate and temperature over a training."""

from __future__ import annotations

import math


def rate_factor(done: float, warmup_share: float, schedule: str) -> float:
    """Factor on the learning rate: a linear warm-up, then constant or down to zero along a cosine.

    done and warmup_share: shares of the whole run, in [0, 1).
    """
    if done < warmup_share:
        return (done + 1e-6) / warmup_share
    if schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (done - warmup_share) / (1.0 - warmup_share)))


def temperature_at(done: float, start: float, end: float) -> float:
    """Temperature of the soft identifiers: linear from start to end over the run. done: share of it, in [0, 1]."""
    return start + (end - start) * done
