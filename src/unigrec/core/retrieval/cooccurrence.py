"""Item-item co-occurrence in users' histories, and popularity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.core.sequences import Histories, Sequences, sample

NEIGHBOURS = 200  # co-occurring items kept for each item
MEETINGS_AT_ONCE = 2**24  # pairs of items of one user that are counted together


def popularity_scores(sequences: Sequences) -> Tensor:
    """(N,) training interactions of each item."""
    return torch.as_tensor(sequences.train_counts(), dtype=torch.float32)


class Cooccurrence:
    """Item-item baseline: cosine of training co-occurrence, summed over the history.

    Two items co-occur where one user has both in the training part; each item keeps its `NEIGHBOURS` nearest.
    """

    def __init__(self, sequences: Sequences):
        counts, neighbours, cosines = np.zeros(sequences.catalogue_size, np.int64), [], []
        for row, other, cosine in _nearest(_baskets(sequences), np.arange(len(counts)), NEIGHBOURS):
            counts += np.bincount(row, minlength=len(counts))
            neighbours.append(other.astype(np.int32))
            cosines.append(cosine)
        self.starts = np.r_[0, np.cumsum(counts)]  # (N + 1,) item i has neighbours starts[i] .. starts[i + 1]
        self.neighbours, self.cosines = np.concatenate(neighbours), np.concatenate(cosines)

    def scores(self, histories: Histories) -> Tensor:
        """(B, N) summed cosine of each item with the items of the history."""
        there = np.arange(histories.items.shape[1]) < histories.lengths[:, None]
        row, items, N = np.nonzero(there)[0], histories.items[there], len(self.starts) - 1
        sizes = self.starts[items + 1] - self.starts[items]
        places = _ranges(self.starts[items], sizes)
        index = np.repeat(row, sizes) * N + self.neighbours[places]
        scores = torch.zeros(len(there) * N)
        return scores.scatter_add_(0, torch.as_tensor(index), torch.as_tensor(self.cosines[places])).view(-1, N)


class Cooccurring(NamedTuple):
    """What some items are bought together with."""

    items: np.ndarray  # (R,) item indices, rising
    neighbours: np.ndarray  # (R, n) item indices, the nearest first; -1 where an item has fewer, and every item has one


def sample_cooccurring(sequences: Sequences, count: int, most: int, seed: int) -> Cooccurring | None:
    """The `count` nearest items by cosine of training co-occurrence, for some of the items that have any.

    For at most `most` items, drawn with the seed: their time and memory do not depend on the catalogue.

    Returns:
        None where no user has two items in the training part.
    """
    baskets = _baskets(sequences)
    items = np.unique(baskets.items[np.repeat(baskets.sizes > 1, baskets.sizes)])  # beside another one of some user
    if not len(items):
        return None
    items = sample(items, most, seed)
    neighbours = np.full((len(items), count), -1)
    for row, other, _ in _nearest(baskets, items, count):
        neighbours[row, _places(row)] = other
    return Cooccurring(items, neighbours)


class _Baskets(NamedTuple):
    """Who has what in the training part, no matter how often."""

    owners: np.ndarray  # users of the first item, of the next, ...
    popularity: np.ndarray  # (N,) users of each item
    items: np.ndarray  # items of the first user, of the next, ...
    sizes: np.ndarray  # (U,) items of each user


def _baskets(sequences: Sequences) -> _Baskets:
    training, users = sequences.is_training(), len(sequences.lengths)
    owner = np.repeat(np.arange(users), sequences.lengths)[training]
    pairs = np.sort(sequences.items[training] * users + owner)
    item, user = np.divmod(pairs[np.diff(pairs, prepend=-1) > 0], users)  # by item, then by user
    by_user = item[np.argsort(user, kind="stable")]
    popularity = np.bincount(item, minlength=sequences.catalogue_size)
    return _Baskets(user, popularity, by_user, np.bincount(user, minlength=users))


def _nearest(baskets: _Baskets, items: np.ndarray, count: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The `count` items with the highest cosine of each of `items` (R,), as long as it is above 0.

    Row in `items`, other item, and cosine (float32) of each pair; in a row the nearest first, of equal cosines the
    lower item index. Piece by piece: time and memory depend on how often items meet in a basket, not on N * N.
    """
    total = len(baskets.popularity)
    item_start = np.cumsum(baskets.popularity) - baskets.popularity
    user_start = np.cumsum(baskets.sizes) - baskets.sizes
    meetings = np.add.reduceat(np.r_[baskets.sizes[baskets.owners], 0], item_start) * (baskets.popularity > 0)
    piece = np.cumsum(meetings[items]) // MEETINGS_AT_ONCE
    for rows in np.split(np.arange(len(items)), np.flatnonzero(np.diff(piece)) + 1):
        own = items[rows]
        owners = baskets.owners[_ranges(item_start[own], baskets.popularity[own])]
        met = baskets.items[_ranges(user_start[owners], baskets.sizes[owners])]
        row = np.repeat(np.repeat(rows, baskets.popularity[own]), baskets.sizes[owners])
        pairs, times = np.unique(row * total + met, return_counts=True)
        row, other = np.divmod(pairs, total)
        different = other != items[row]
        row, other, times = row[different], other[different], times[different]
        # Whole numbers over whole numbers: equal cosines are equal here, to the last bit.
        square = times**2 / (baskets.popularity[items[row]] * baskets.popularity[other])
        near = square >= _least_of_the_largest(square, row, count)
        row, other, square = row[near], other[near], square[near]
        order = np.lexsort((-square, row))
        order = order[_places(row) < count]  # the same rows before and after sorting
        yield row[order], other[order], np.sqrt(square[order]).astype(np.float32)


def _least_of_the_largest(values: np.ndarray, row: np.ndarray, count: int) -> np.ndarray:
    """For each value, the least of the `count` largest of its run of equal row numbers; -inf where a run has fewer."""
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    sizes = np.diff(np.r_[starts, len(row)])
    least = np.full(len(starts), -np.inf)
    for run in np.flatnonzero(sizes > count):
        part = values[starts[run] : starts[run] + sizes[run]]
        least[run] = np.partition(part, sizes[run] - count)[sizes[run] - count]
    return np.repeat(least, sizes)


def _places(row: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each run of equal row numbers."""
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    return _ranges(np.zeros(len(starts), np.int64), np.diff(np.r_[starts, len(row)]))


def _ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """start, start + 1, ... of each range, one range after the other."""
    return np.arange(sizes.sum()) + np.repeat(starts - np.cumsum(sizes) + sizes, sizes)
