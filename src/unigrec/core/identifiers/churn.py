"""Which identifiers of an earlier catalogue the items keep.

Shapes: N items of today, M items known earlier, T codes of an identifier, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


def rows_of(item_ids: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """(N,) index of each item among the known ones, or -1."""
    index_of = {item_id: index for index, item_id in enumerate(known)}
    return np.array([index_of.get(item_id, -1) for item_id in item_ids], np.int64)


def known_codes(item_ids: Sequence[str], known: Sequence[str], codes: np.ndarray) -> np.ndarray:
    """(N, T) identifier of each item among the codes (M, T) of the known ones; -1 for an unknown item."""
    rows = rows_of(item_ids, known)
    return np.where(rows[:, None] >= 0, codes[rows], -1)


def churn(previous: np.ndarray, current: np.ndarray) -> list[float]:
    """Share of items whose code changed, per level: (N, L) twice -> L shares."""
    return [float(share) for share in (previous != current).mean(0)]


class Churn(NamedTuple):
    """How many identifiers of a catalogue changed."""

    items: int  # items of today that had an identifier before
    changed: float | None  # share of these with another identifier; None if `items` is 0
    per_level: list[float] | None  # share with another code; None also if the identifiers had another length

    def as_dict(self) -> dict[str, Any]:
        """The entries of a health report, for a training that started from a bundle."""
        return {"start_items": self.items, "start_changed": self.changed, "start_churn": self.per_level}


def churn_against(earlier: np.ndarray, now: np.ndarray) -> Churn:
    """Compare today's identifiers with the earlier ones. If their lengths differ, every identifier has changed.

    earlier: (N, T) the same items' earlier identifiers, -1 for an item without one. now: (N, T') today's.
    """
    common = np.flatnonzero((earlier >= 0).all(1))
    if not len(common):
        return Churn(0, None, None)
    if earlier.shape[1] != now.shape[1]:
        return Churn(len(common), 1.0, None)
    old, new = earlier[common], now[common]
    return Churn(len(common), float((old != new).any(1).mean()), churn(old, new))
