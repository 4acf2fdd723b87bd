"""Item-item co-occurrence in users' histories, direct successors, and popularity.

Shapes: U users, N items, B histories, R items whose neighbours are wanted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from unigrec.core.sequences import Histories, Sequences, sample, split_by_total

NEIGHBOURS = 200  # co-occurring items kept per item ...
PAIRS_KEPT = 2**28  # ... fewer of a catalogue of more than 1.3 million, for 2 GB in all
PAIRS_AT_ONCE = 2**22  # pairs of items of one user that are counted together


def popularity_scores(sequences: Sequences) -> Tensor:
    """(N,) training interactions of each item."""
    return torch.as_tensor(sequences.train_counts(), dtype=torch.float32)


class Cooccurrence:
    """Item-item baseline: cosine of training co-occurrence, summed over the history.

    Two items co-occur where one user has both in the training part; each item keeps the nearest, `kept_neighbours`.
    """

    def __init__(self, sequences: Sequences):
        size = sequences.catalogue_size
        self.nearest = nearest_items(_incidence(sequences), np.arange(size), kept_neighbours(size))  # (N, N)

    def scores(self, histories: Histories) -> csr_array:
        """(B, N) summed cosine of each item with the items of the history, where it is above 0."""
        exists = np.arange(histories.items.shape[1]) < histories.lengths[:, None]
        items, starts = histories.items[exists], np.r_[0, np.cumsum(histories.lengths)]
        shape = len(starts) - 1, self.nearest.shape[0]
        # An item that comes twice is an entry twice, so that cosines are added in the order of the history.
        history = csr_array((np.ones(len(items), np.float32), items, starts), shape=shape)
        return history @ self.nearest


def kept_neighbours(items: int) -> int:
    """Neighbours kept per item of a catalogue of that many items."""
    return max(min(NEIGHBOURS, PAIRS_KEPT // max(items, 1)), 1)


class Cooccurring(NamedTuple):
    """The items that some items are bought together with."""

    items: np.ndarray  # (R,) item indices, increasing
    neighbours: np.ndarray  # (R, n) item indices, the nearest first; -1 where an item has fewer, and every item has one


def sample_cooccurring(sequences: Sequences, count: int, most: int, seed: int) -> Cooccurring | None:
    """The `count` nearest items by cosine of training co-occurrence, for some of the items that have any.

    At most `most` items are drawn, with the seed: the time and memory for them do not depend on the catalogue.

    Returns:
        None if no user has two items in the training part.
    """
    incidence = _incidence(sequences)
    sizes = np.diff(incidence.indptr)
    items = np.unique(incidence.indices[np.repeat(sizes > 1, sizes)]).astype(np.int64)
    if not len(items):
        return None
    items = sample(items, most, seed)
    nearest = nearest_items(incidence, items, count)
    neighbours = np.full((len(items), count), -1)
    neighbours[np.arange(count) < np.diff(nearest.indptr)[:, None]] = nearest.indices
    return Cooccurring(items, neighbours)


def _incidence(sequences: Sequences) -> csr_array:
    """(U, N) 1 where a user has an item in the training part, no matter how often."""
    training, shape = sequences.is_training(), (len(sequences.lengths), sequences.catalogue_size)
    users = np.repeat(np.arange(shape[0]), sequences.lengths)[training]
    counts = csr_array((np.ones(len(users), np.int32), (users, sequences.items[training])), shape=shape)
    counts.data[:] = 1
    return counts


def nearest_items(incidence: csr_array, items: np.ndarray, count: int) -> csr_array:
    """Cosines (R, N) of each of `items` (R,) with the `count` items nearest to it, if above 0.

    In a row the nearest item comes first; of equal cosines, the lower item index. Rows are computed in blocks: time and
    memory depend on how often two items meet at a user, not on N * N.

    Args:
        incidence: (U, N) as `_incidence` gives it.
    """
    users_of = incidence.T.tocsr()  # (N, U)
    popularity = np.diff(users_of.indptr).astype(np.int64)
    pairs = users_of[items] @ np.diff(incidence.indptr).astype(np.int64)  # (R,) that are counted for each of the items
    # As large as the result can be; memory that is not filled is not used. A list of blocks would be held twice.
    most = int(np.minimum(pairs, count).sum())
    values, columns, sizes, done = np.empty(most, np.float32), np.empty(most, np.int32), [0], 0
    for block in split_by_total(items, pairs, PAIRS_AT_ONCE):
        times = users_of[block] @ incidence  # (r, N) users who have both items
        row, other = np.repeat(np.arange(len(block)), np.diff(times.indptr)), times.indices
        # Integers divided by integers: equal cosines are equal here, to the last bit.
        square = times.data.astype(np.int64) ** 2 / (popularity[block][row] * popularity[other])
        square[other == block[row]] = 0.0
        near = largest_of_rows(csr_array((square, other, times.indptr), shape=times.shape), count)
        rows = slice(done, done + near.nnz)
        values[rows], columns[rows] = np.sqrt(near.data), near.indices
        sizes += np.diff(near.indptr).tolist()
        done = rows.stop
    starts = np.cumsum(sizes, dtype=np.int32)  # with int64, scipy would copy the columns to int64 too
    return csr_array((values[:done], columns[:done], starts), shape=(len(items), len(popularity)))


def count_successors(sequences: Sequences) -> csr_array:
    """(N, N) how often an item comes directly after another in the training part, `kept_neighbours` per row.

    Values are log(1 + n), relative to the largest of the row.
    """
    positions = sequences.windows()  # every training item that has one before it
    pairs = sequences.items[positions - 1], sequences.items[positions]
    size = sequences.catalogue_size
    counts = csr_array((np.ones(len(positions), np.float32), pairs), shape=(size, size))
    counts.sum_duplicates()
    counts.data = np.log1p(counts.data)
    row = np.repeat(np.arange(size), np.diff(counts.indptr))
    counts.data /= counts.max(axis=1).toarray()[row]
    return largest_of_rows(counts, kept_neighbours(size))


def largest_of_rows(values: csr_array, count: int) -> csr_array:
    """The `count` largest values of each row, if above 0: the largest first, of equal ones the lower column."""
    row = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
    # Drop what is below the `count` largest of its row before sorting; ties with the last of them stay.
    near = np.flatnonzero((values.data >= _largest(values.data, values.indptr, count)[row]) & (values.data > 0.0))
    near = near[np.lexsort((values.indices[near], -values.data[near], row[near]))]
    sizes = np.bincount(row[near], minlength=values.shape[0])
    near = near[np.arange(len(near)) - np.repeat(np.cumsum(sizes) - sizes, sizes) < count]
    starts = np.r_[0, np.cumsum(np.minimum(sizes, count))]
    return csr_array((values.data[near], values.indices[near], starts), shape=values.shape)


def _largest(values: np.ndarray, starts: np.ndarray, count: int) -> np.ndarray:
    """The `count`-th largest value of each row, rows beginning at `starts` (r + 1,); 0 where a row has fewer."""
    found = np.zeros(len(starts) - 1)
    for row in np.flatnonzero(np.diff(starts) > count):
        found[row] = np.partition(values[starts[row] : starts[row + 1]], -count)[-count]
    return found
