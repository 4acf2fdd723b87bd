"""Which identifiers of an earlier catalogue an item keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
