"""Who is evaluated, and what trains: read from prepared sequences. Legend: U users, n interactions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

HELD_OUT = 2  # the last interaction of a user is the test, the one before it the validation


def is_evaluated(sequences: Mapping[str, np.ndarray]) -> np.ndarray:
    """(U,) who has a validation and a test item.

    sequences: as in `prepare.Prepared`. Those of a log with types of events name the place of the validation item.
    """
    if "validation" in sequences:
        return sequences["validation"] >= 0
    return np.diff(sequences["offsets"]) > HELD_OUT


def training_ends(sequences: Mapping[str, np.ndarray]) -> np.ndarray:
    """(U,) the place behind each user's training part: that of the validation item, if the user is evaluated."""
    ends = sequences["offsets"][1:]
    before = sequences.get("validation", ends - HELD_OUT)
    return np.where(is_evaluated(sequences), before, ends)


def is_training(sequences: Mapping[str, np.ndarray]) -> np.ndarray:
    """(n,) bool, which interactions train; two bytes per interaction while it is made."""
    evaluated = is_evaluated(sequences)
    edges = np.zeros(len(sequences["items"]) + 1, np.int8)
    edges[training_ends(sequences)[evaluated]] = -1
    edges[sequences["offsets"][1:][evaluated]] = 1
    edges[0] += 1
    return np.cumsum(edges[:-1], dtype=np.int8) > 0
