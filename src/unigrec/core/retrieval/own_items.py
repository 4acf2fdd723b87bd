"""How often a history holds an item. Of what a customer buys again and again, all of it tells more than its end.

Next-basket recommendation knows these counts as the baseline P-TopFreq.

Models read the last items of a history, as many as they were trained on. Counts are of the last `LONGEST` items.

Shapes: B histories of up to n items, C candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unigrec.core.retrieval.neighbours import Permits
from unigrec.core.retrieval.rows import seen_further_left


class OwnItems:
    """The items of B histories.

    Args:
        items: (B, n), padded on the right by lengths (B,).
    """

    def __init__(self, items: Tensor, lengths: Tensor):
        exists = torch.arange(items.shape[1], device=items.device) < lengths[:, None]
        self.items = items.masked_fill(~exists, -1)
        self._ordered = self.items.sort(dim=-1).values

    @property
    def longest(self) -> int:
        """Items of the longest history."""
        return self.items.shape[1]

    def among(self, size: int) -> Tensor:
        """(B, size) whether each history holds each item of a catalogue."""
        held = torch.zeros(len(self.items), size + 1, dtype=torch.bool, device=self.items.device)
        return held.scatter_(1, self.items.remainder(size + 1), True)[:, :size]  # -1 becomes the place after the last

    def others(self, permits: Permits | None) -> Permits:
        """Permits what the histories do not hold."""
        return lambda items: (self.counts(items) == 0) & (True if permits is None else permits(items))

    def last(self, items: Tensor) -> Tensor:
        """Items (B, C), in their order, those that each history holds after the others; -1 at the end."""
        place = torch.where(items < 0, 2, (self.counts(items) > 0).int())
        return items.gather(1, place.argsort(dim=1, stable=True))

    def counts(self, items: Tensor) -> Tensor:
        """How often each history holds items (B, C); for none, -1, any number."""
        items = items.contiguous()
        return torch.searchsorted(self._ordered, items, right=True) - torch.searchsorted(self._ordered, items)

    def strength(self, items: Tensor) -> Tensor:
        """The feature `own` of items (B, C): log(1 + count)."""
        return self.counts(items).float().log1p()

    def most_frequent(self, count: int, permits: Permits | None = None) -> Tensor:
        """(B, at most `count`) permitted items of each history: by their counts, then the later one; -1 for none."""
        latest = self.items.flip(1)
        counts = self.counts(latest)
        is_wanted = (latest >= 0) & ~seen_further_left(latest)
        if permits is not None:
            is_wanted &= permits(latest)
        steps = torch.arange(latest.shape[1], device=latest.device) / latest.shape[1]  # below 1: breaks ties of counts
        found = (counts - steps).masked_fill(~is_wanted, float("-inf")).topk(min(count, latest.shape[1]), dim=-1)
        return latest.gather(1, found.indices).masked_fill(found.values == float("-inf"), -1)
