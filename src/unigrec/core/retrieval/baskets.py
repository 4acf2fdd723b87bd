"""What is bought together: pairs of items in one basket, counted, and how much more often than chance.

    lift(i, j) = log(n_ij N / (n_i n_j)) - SHRINKAGE / sqrt(n_ij)

N baskets, n_i of them with the item i, n_ij with both. The second term is what chance may add to a small count.

A basket holds what one user bought within a day (UTC). Some logs have numbers of order as times, or a single time per
user: their days tell nothing, so a basket is all that a user bought.

Shapes: N items, p pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SHRINKAGE = 4.0  # chosen on validation pairs of two shops; a pair of one basket needs a lift of e ** 4


class Baskets(NamedTuple):
    """The counted pairs of each item, as compressed rows, the largest lift first."""

    starts: np.ndarray  # (N + 1,) int64, row i holds the entries starts[i] .. starts[i + 1]
    items: np.ndarray  # (p,) int64 or int32, the other item of each pair
    counts: np.ndarray  # (p,) likewise, baskets with both
    item_counts: np.ndarray  # (N,) likewise, baskets with the item
    total: int  # number of baskets with at least two items
    by_day: bool  # false: a basket is all that a user bought

    def pairs(self, item: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The other items (m,), their counts (m,) and their lifts (m,)."""
        row = slice(self.starts[item], self.starts[item + 1])
        others, counts = self.items[row].astype(np.int64), self.counts[row].astype(np.int64)
        baskets = np.int64(self.item_counts[item]) * self.item_counts[others]
        return others, counts, lift(counts, baskets, self.total)

    def together(self, one: int, other: int) -> int:
        """Baskets with both; 0 where they were not counted."""
        row = slice(self.starts[one], self.starts[one + 1])
        return int(self.counts[row][self.items[row] == other].sum())

    def with_items(self, count: int) -> Baskets:
        """The same baskets in a catalogue with so many more items at its end, which are in none."""
        starts = np.r_[self.starts, np.full(count, self.starts[-1])]
        return self._replace(starts=starts, item_counts=np.r_[self.item_counts, np.zeros(count, np.int64)])


def lift(counts: np.ndarray, products: np.ndarray, total: int) -> np.ndarray:
    """Of pairs (m,). counts: n_ij, above 0. products: n_i n_j. total: N."""
    return np.log(counts * (total / products)) - SHRINKAGE / np.sqrt(counts)
