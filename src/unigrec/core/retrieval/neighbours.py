"""Neighbours: what follows an item, what is bought by the same users, and what is like it. Counts and content vectors;
nothing is trained.

Shapes: N items, D content dimensions, B histories of n items, R items whose rows are wanted, p counted pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

RECENT = 3  # items of a history whose neighbours are wanted, the last ones
DECAY = 0.5  # of an item's weight, per item after it


class Pairs(NamedTuple):
    """Numbers for some pairs of items, as compressed rows."""

    starts: Tensor  # (N + 1,) int64, row i holds the entries starts[i] .. starts[i + 1]
    items: Tensor  # (p,) int64
    weights: Tensor  # (p,) in (0, 1]

    @classmethod
    def none(cls, items: int) -> Pairs:
        """No pairs of a catalogue of that many items."""
        return cls(torch.zeros(items + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int64), torch.empty(0))

    def to(self, device: torch.device) -> Pairs:
        return Pairs(*(part.to(device) for part in self))

    def sums(self, items: Tensor, weights: Tensor, wanted: Tensor | None = None) -> Tensor:
        """The weighted sum of some rows: items (B, R), weights (B, R) -> (B, N). A weight of 0 stands for no item.

        wanted: (K,) the only columns that are asked for -> (B, K); the time then does not depend on N.
        """
        sizes = ((self.starts[items + 1] - self.starts[items]) * (weights != 0)).flatten()
        row = torch.repeat_interleave(torch.arange(len(sizes), device=items.device), sizes)
        within = torch.arange(len(row), device=items.device) - (sizes.cumsum(0) - sizes)[row]
        entry = self.starts[items].flatten()[row] + within
        history, values = row // items.shape[1], self.weights[entry] * weights.flatten()[row]
        if wanted is None:
            result = self.weights.new_zeros(len(items), len(self.starts) - 1)
            return result.index_put_((history, self.items[entry]), values, accumulate=True)
        found, column = (self.items[entry][:, None] == wanted).nonzero(as_tuple=True)
        result = self.weights.new_zeros(len(items), len(wanted))
        return result.index_put_((history[found], column), values[found], accumulate=True)


class Near(NamedTuple):
    """How near each item is to a history, in several ways: (B, N) each."""

    follows: Tensor  # how often it came directly after the last item
    alike: Tensor  # cosine of its content and that of the last item
    follows_earlier: Tensor  # the same for the items before the last, with falling weights
    alike_earlier: Tensor
    together: Tensor  # how many users had it and the last items, the last item with the highest weight


class Neighbours:
    """The neighbours of every item of a catalogue.

    Args:
        successors: the items that come directly after an item, by how often.
        together: the items that the same users had, by cosine.
        content: (N, D) vectors of length 1, or 0 for an item without content.
    """

    def __init__(self, successors: Pairs, together: Pairs, content: Tensor):
        self.successors, self.together, self.content = successors, together, content

    def to(self, device: torch.device) -> Neighbours:
        return Neighbours(self.successors.to(device), self.together.to(device), self.content.to(device))

    def near(self, items: Tensor, lengths: Tensor, wanted: Tensor | None = None) -> Near:
        """For histories (B, n), padded on the right by lengths (B,), none of which is 0.

        wanted: (K,) the only items that are asked for; fields then have the shape (B, K).
        """
        back = torch.arange(RECENT, device=items.device)
        exists = back < lengths[:, None]
        recent = items.gather(1, (lengths[:, None] - 1 - back).clamp_min(0))  # (B, RECENT), the last item first
        weights = torch.where(exists, DECAY**back, 0.0)
        last, earlier, of_earlier = recent[:, 0], recent[:, 1:], weights[:, 1:] / DECAY
        return Near(
            follows=self.following(last, wanted),
            alike=self.alike(last, wanted),
            follows_earlier=self.successors.sums(earlier, of_earlier, wanted),
            alike_earlier=self._alike(earlier, of_earlier, wanted),
            together=self.together.sums(recent, weights, wanted),
        )

    def following(self, items: Tensor, wanted: Tensor | None = None) -> Tensor:
        """How much each item, or each wanted one, follows each of the given ones: (B,) -> (B, N or K), in [0, 1]."""
        return self.successors.sums(items[:, None], self.content.new_ones(len(items), 1), wanted)

    def alike(self, items: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Cosine of each item's content, or each wanted one's, with that of the given ones: (B,) -> (B, N or K).

        An item has 0 with itself: it is not its own neighbour.
        """
        if wanted is not None:
            return (self.content[items] @ self.content[wanted].T).masked_fill_(items[:, None] == wanted, 0.0)
        return (self.content[items] @ self.content.T).scatter_(1, items[:, None], 0.0)

    def _alike(self, items: Tensor, weights: Tensor, wanted: Tensor | None = None) -> Tensor:
        """The weighted sum of what `alike` has for several items: (B, R) twice -> (B, N or K), in one product."""
        vectors = self.content[items]  # (B, R, D)
        summed, own = (weights[..., None] * vectors).sum(1), -weights * vectors.square().sum(-1)
        if wanted is not None:
            same = items[..., None] == wanted  # (B, R, K)
            return summed @ self.content[wanted].T + (own[..., None] * same).sum(1)
        return (summed @ self.content.T).scatter_add_(1, items, own)
