"""Schedules of learning rate and temperature."""

from __future__ import annotations

import math


def rate_factor(done: float, warmup_share: float, schedule: str) -> float:
    """Factor on the learning rate: linear warm-up, then constant, or falling to zero along a cosine.

    done: finished share of the run. warmup_share: share of it that warms up. Both in [0, 1).
    """
    if done < warmup_share:
        return (done + 1e-6) / warmup_share
    if schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (done - warmup_share) / (1.0 - warmup_share)))


def temperature_at(done: float, start: float, end: float) -> float:
    """Temperature of the soft identifiers: linear from start to end. done: finished share of the run, in [0, 1]."""
    return start + (end - start) * done
