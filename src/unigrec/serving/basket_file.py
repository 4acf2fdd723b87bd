"""The counted baskets as a file of a bundle. The file is not trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.core.blocks import are_starts
from unigrec.core.retrieval.baskets import Baskets

if TYPE_CHECKING:
    from pathlib import Path

AT_ONCE = 2**18  # items whose pairs are checked at a time
ARRAYS = {"starts": np.int64, "items": np.int32, "counts": np.int32, "item_counts": np.int32, "scale": np.int64}


def write_baskets(path: Path, baskets: Baskets) -> None:
    """`scale` holds the number of baskets, and 1 if a basket is a day's."""
    arrays = baskets._asdict() | {"scale": [baskets.total, int(baskets.by_day)]}
    files.write_tensors(path, {name: np.asarray(arrays[name], dtype) for name, dtype in ARRAYS.items()})


def read_baskets(path: Path, items: int, checked: bool = False) -> Baskets:
    """From a file whose hash the caller has compared. Raises UnigrecError unless it holds baskets of so many items.

    checked: the same file was read before, and its values are not looked at again.
    """
    tensors = files.read_tensors(path, verified=True)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items() if not tensor.is_floating_point()}
    found = {name: arrays[name].dtype for name in ARRAYS if name in arrays}
    if found != {name: np.dtype(dtype) for name, dtype in ARRAYS.items()}:
        raise UnigrecError(f"{path}: expected arrays {list(ARRAYS)} of whole numbers, found {found}")
    starts, others, counts, item_counts, scale = (arrays[name] for name in ARRAYS)
    shapes = starts.shape == (items + 1,) and item_counts.shape == (items,) and scale.shape == (2,)
    if not shapes or others.ndim != 1 or counts.shape != others.shape:
        raise UnigrecError(f"{path}: the baskets are not those of {items} items")
    baskets = Baskets(starts, others, counts, item_counts, total=int(scale[0]), by_day=bool(scale[1]))
    if checked:
        return baskets
    if not are_starts(tensors["starts"], items, len(others)):
        raise UnigrecError(f"{path}: the baskets are not those of {items} items")
    if len(others) and not (others.min() >= 0 and others.max() < items and counts.min() > 0 and scale[0] > 0):
        raise UnigrecError(f"{path}: pairs outside of the catalogue of {items} items, or without a basket")
    if not all(_fits(first, starts, others, counts, item_counts) for first in range(0, items, AT_ONCE)):
        raise UnigrecError(f"{path}: a pair is in more baskets than one of its items")
    return baskets


def _fits(first: int, starts: np.ndarray, others: np.ndarray, counts: np.ndarray, item_counts: np.ndarray) -> bool:
    """Whether none of the pairs of the items from `first` on is in more baskets than one of its two items."""
    ends = starts[first : first + AT_ONCE + 1]
    times, second = (part[ends[0] : ends[-1]] for part in (counts, others))
    of_first = np.repeat(item_counts[first : first + AT_ONCE], np.diff(ends))
    return bool((of_first >= times).all() and (item_counts[second] >= times).all())
