"""Which identifiers of an earlier catalogue an item keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    pass


def rows_of(item_ids: list[str], known: list[str]) -> np.ndarray:
    """(N,) place of each item among the known ones, or -1."""
    place = {item_id: index for index, item_id in enumerate(known)}
    return np.array([place.get(item_id, -1) for item_id in item_ids], np.int64)


def known_codes(item_ids: list[str], known: list[str], codes: np.ndarray) -> np.ndarray:
    """(N, T) what each item's identifier is among the known ones' (M, T) codes; -1 for an item that is none of them."""
    rows = rows_of(item_ids, known)
    return np.where(rows[:, None] >= 0, codes[rows], -1)


def churn(previous: np.ndarray, current: np.ndarray) -> list[float]:
    """Share of items whose code changed, per level: (N, L) twice."""
    return [float(share) for share in (previous != current).mean(0)]


class Churn(NamedTuple):
    """How far the identifiers of a catalogue are what they were."""

    items: int  # of today's, those that had one before
    changed: float | None  # share of these whose identifier is another; None where there is none
    per_level: list[float] | None  # share whose code is another; None as well where the identifiers had another length

    def as_dict(self) -> dict[str, Any]:
        """As a health report has it, of a training that started from a bundle."""
        return {"start_items": self.items, "start_changed": self.changed, "start_churn": self.per_level}


def churn_against(earlier: np.ndarray, now: np.ndarray) -> Churn:
    """Today's identifiers beside those of before; identifiers of another length are all others.

    earlier: (N, T) the same items' earlier identifiers, -1 for an item that had none. now: (N, T') today's.
    """
    common = np.flatnonzero((earlier >= 0).all(1))
    if not len(common):
        return Churn(0, None, None)
    if earlier.shape[1] != now.shape[1]:
        return Churn(len(common), 1.0, None)
    old, new = earlier[common], now[common]
    return Churn(len(common), float((old != new).any(1).mean()), churn(old, new))
