"""Neighbours: what follows an item, and what is like it. Counts and content vectors; nothing is trained.

Shapes: N items, D content dimensions, B histories, n counted pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Neighbours:
    """The successors of each item, as compressed rows, and its content.

    Args:
        starts: (N + 1,) int64, row i holds the entries starts[i] .. starts[i + 1].
        items: (n,) int64, the items that come directly after the row's item.
        weights: (n,) how often, in (0, 1].
        content: (N, D) vectors of length 1, or 0 for an item without content.
    """

    def __init__(self, starts: Tensor, items: Tensor, weights: Tensor, content: Tensor):
        self.starts, self.items, self.weights, self.content = starts, items, weights, content

    def to(self, device: torch.device) -> Neighbours:
        return Neighbours(*(part.to(device) for part in (self.starts, self.items, self.weights, self.content)))

    def following(self, items: Tensor) -> Tensor:
        """How much each item follows each of the given ones: (B,) -> (B, N), in [0, 1]."""
        sizes = self.starts[items + 1] - self.starts[items]
        rows = torch.repeat_interleave(torch.arange(len(items), device=items.device), sizes)
        within = torch.arange(len(rows), device=items.device) - (sizes.cumsum(0) - sizes)[rows]
        entries = self.starts[items][rows] + within
        result = self.weights.new_zeros(len(items), len(self.content))
        result[rows, self.items[entries]] = self.weights[entries]
        return result

    def alike(self, items: Tensor) -> Tensor:
        """Cosine of each item's content with that of each of the given ones: (B,) -> (B, N).

        An item has 0 with itself: it is not its own neighbour.
        """
        return (self.content[items] @ self.content.T).scatter_(1, items[:, None], 0.0)
