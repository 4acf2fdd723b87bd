"""What a visitor without a known item is shown: the items that were taken most often.

Shapes: N items, k found.
"""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from unigrec.core.retrieval.beam import BeamResult


class Popularity:
    """Items by how often they were taken.

    Args:
        counts: (N,) integers, none below 0. order: (N,) the most popular item first, if it is known.
    """

    def __init__(self, counts: Tensor, order: Tensor | None = None):
        self.counts = counts
        self.order = counts.sort(descending=True, stable=True).indices if order is None else order

    @cached_property
    def _total(self) -> float:
        """Of the counts, smoothed by 1 each, so that every share is above 0."""
        return float(self.counts.sum()) + len(self.counts)

    def scores(self, items: Tensor | None = None) -> Tensor:
        """float32, the log of each item's share; of all items, (N,), or of the given ones."""
        counts = self.counts if items is None else self.counts[items]
        return ((counts.double() + 1.0) / self._total).log().float()

    def best(self, allowed: Tensor | None, count: int) -> BeamResult:
        """The most popular of the allowed items, (N,) bool: (1, k) twice."""
        items = (self.order if allowed is None else self.order[allowed[self.order]])[None, :count]
        return BeamResult(items, self.scores(items))
