"""Counts the pairs of items in the baskets of a log.

Shapes: G baskets, N items, r items of a block.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from unigrec.core.retrieval.baskets import Baskets, lift
from unigrec.core.retrieval.cooccurrence import PAIRS_AT_ONCE, largest_of_rows
from unigrec.core.sequences import Sequences, split_by_total

KEPT = 200  # pairs per item, those of the largest lift
LARGEST_BASKET = 100  # items; a larger one is a stock order or a machine, and its pairs mean little


def count_baskets(sequences: Sequences) -> Baskets:
    """Of the training part of the sequences; with types of events, of those with the highest weight alone."""
    incidence, by_day = _incidence(sequences)
    item_counts = np.bincount(incidence.indices, minlength=incidence.shape[1]).astype(np.int64)
    baskets_of = incidence.T.tocsr()  # (N, G)
    work = baskets_of @ np.diff(incidence.indptr).astype(np.int64)  # (N,) pairs that are counted for each item
    rows, others, counts = ([np.empty(0, np.int64)] for _ in range(3))
    for block in split_by_total(np.arange(len(item_counts)), work, PAIRS_AT_ONCE):
        found, of_pairs = _best_pairs(baskets_of[block] @ incidence, block, item_counts, incidence.shape[0])
        rows.append(block[np.repeat(np.arange(len(block)), np.diff(found.indptr))])
        others.append(found.indices.astype(np.int64))
        counts.append(of_pairs)
    sizes = np.bincount(np.concatenate(rows), minlength=len(item_counts))
    return Baskets(
        np.r_[0, np.cumsum(sizes)],
        np.concatenate(others),
        np.concatenate(counts),
        item_counts,
        total=incidence.shape[0],
        by_day=by_day,
    )


def _best_pairs(
    together: csr_array, block: np.ndarray, item_counts: np.ndarray, total: int
) -> tuple[csr_array, np.ndarray]:
    """The kept pairs of some items: lifts as rows (r, N), and their counts. together: (r, N) baskets with both."""
    together.sort_indices()
    place = np.repeat(np.arange(len(block)), np.diff(together.indptr))
    row, counts, other = block[place], together.data, together.indices
    lifts = lift(counts, item_counts[row] * item_counts[other], total)
    lifts[other == row] = 0.0  # `largest_of_rows` keeps what is above 0
    best = largest_of_rows(csr_array((lifts, other, together.indptr), shape=together.shape), KEPT)
    kept = np.repeat(np.arange(len(block)), np.diff(best.indptr)) * together.shape[1] + best.indices
    return best, counts[np.searchsorted(place * together.shape[1] + other, kept)]


def _incidence(sequences: Sequences) -> tuple[csr_array, bool]:
    """(G, N) 1 where a basket of at least two items has an item; and whether the days tell the baskets."""
    kept, size = sequences.is_training(), sequences.catalogue_size
    if sequences.weights is not None:  # a view is no purchase
        kept &= sequences.weights == sequences.weights.max(initial=0.0)
    training = np.flatnonzero(kept)
    basket = np.repeat(np.arange(len(sequences.lengths)), sequences.lengths)[training]
    days = sequences.days()
    if days is not None:  # a user's interactions are in the order of their times
        day = days[training] - days.min(initial=0)
        basket = _numbered(basket * (day.max(initial=0) + 1) + day)
    # A pair as one number: numpy sorts pairs in several times the time and memory.
    pairs = np.sort(basket * size + sequences.items[training])
    basket, item = np.divmod(pairs[np.diff(pairs, prepend=-1) != 0], size)
    sizes = np.bincount(basket)
    kept = (sizes[basket] >= 2) & (sizes[basket] <= LARGEST_BASKET)
    number = _numbered(basket[kept])
    shape = (int(number.max()) + 1 if len(number) else 0, size)
    ones = np.ones(int(kept.sum()), np.int64)
    return csr_array((ones, (number, item[kept])), shape=shape), days is not None


def _numbered(values: np.ndarray) -> np.ndarray:
    """Values (n,), equal ones next to each other -> (n,) their numbers, counted from 0."""
    return np.cumsum(np.diff(values, prepend=values[:1]) != 0)
