"""Neighbours: what follows an item, what is bought by the same users, and what is like it. Counts and content vectors;
nothing is trained.

Shapes: N items, D content dimensions, B histories of n items, R items whose rows are wanted, p counted pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

RECENT = 3  # items of a history whose neighbours are wanted, the last ones
DECAY = 0.5  # of an item's weight, per item after it
Permits = Callable[[Tensor], Tensor]  # which of some items may be recommended: (B, X) -> bool (B, X), false for -1


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

        wanted: the only columns that are asked for, the same or others for each history, (K,) or (B, K) -> (B, K); the
            time then does not depend on N.
        """
        if wanted is None:
            history, columns, values = self._entries(items, weights)
            result = weights.new_zeros(len(items), len(self.starts) - 1)
            return result.index_put_((history, columns), values, accumulate=True)
        cells, sums = self._summed(items, weights)
        asked = torch.arange(len(items), device=items.device)[:, None] * len(self.starts) + wanted
        if not len(cells):
            return weights.new_zeros(asked.shape)
        place = torch.searchsorted(cells, asked).clamp_max(len(cells) - 1)
        return sums[place].masked_fill(cells[place] != asked, 0.0)

    def largest(self, items: Tensor, weights: Tensor, count: int, permits: Permits | None = None) -> Tensor:
        """(B, count) the columns of the largest weighted sums, as `sums` has them; -1 where there are fewer.

        permits: which columns count; None: all.
        """
        width = len(self.starts)
        cells, sums = self._summed(items, weights)
        history = cells // width
        sizes = torch.bincount(history, minlength=len(items))
        within = torch.arange(len(cells), device=items.device) - (sizes.cumsum(0) - sizes)[history]
        longest = int(sizes.max()) if len(cells) else 0
        found = torch.full((len(items), longest), -1, device=items.device).index_put_((history, within), cells % width)
        scores = sums.new_full((len(items), longest), float("-inf")).index_put_((history, within), sums)
        if permits is not None:
            scores = scores.masked_fill(~permits(found), float("-inf"))
        best = scores.topk(min(count, longest), dim=-1)
        return found.gather(1, best.indices).masked_fill(best.values == float("-inf"), -1)

    def _summed(self, items: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The cells (c,) that are not empty, history * (N + 1) + column, rising, and the sum of each."""
        history, columns, values = self._entries(items, weights)
        cells, place = torch.unique(history * len(self.starts) + columns, return_inverse=True)
        return cells, values.new_zeros(len(cells)).index_add_(0, place, values)

    def _entries(self, items: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The entries of the rows: the history (e,) that each belongs to, its column and its weighted value."""
        sizes = ((self.starts[items + 1] - self.starts[items]) * (weights != 0)).flatten()
        row = torch.repeat_interleave(torch.arange(len(sizes), device=items.device), sizes)
        within = torch.arange(len(row), device=items.device) - (sizes.cumsum(0) - sizes)[row]
        entry = self.starts[items].flatten()[row] + within
        values = self.weights[entry].float() * weights.flatten()[row]
        return row // items.shape[1], self.items[entry].long(), values


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
        content: (N, D) vectors of length 1, or 0 for an item without content. They, the items and the weights of the
            pairs may have the short types of the file: then `near` is for wanted items only.
    """

    def __init__(self, successors: Pairs, together: Pairs, content: Tensor):
        self.successors, self.together, self.content = successors, together, content

    def to(self, device: torch.device) -> Neighbours:
        return Neighbours(self.successors.to(device), self.together.to(device), self.content.to(device))

    def near(self, items: Tensor, lengths: Tensor, wanted: Tensor | None = None) -> Near:
        """For histories (B, n), padded on the right by lengths (B,), none of which is 0.

        wanted: (K,) or (B, K) the only items that are asked for; fields then have the shape (B, K).
        """
        recent, weights = recent_items(items, lengths)
        last, earlier, of_earlier = recent[:, 0], recent[:, 1:], weights[:, 1:] / DECAY
        vectors = self.content[recent].float()  # (B, R, D)
        summed = (of_earlier[..., None] * vectors[:, 1:]).sum(1)
        # One pass over the content serves both, which takes half the time of two.
        alike, alike_earlier = self._products(torch.stack([vectors[:, 0], summed], 1), wanted).unbind(1)
        own = -of_earlier * vectors[:, 1:].square().sum(-1)
        return Near(
            follows=self.following(last, wanted),
            alike=_without_itself(alike, last, wanted),
            follows_earlier=self.successors.sums(earlier, of_earlier, wanted),
            alike_earlier=_add_at(alike_earlier, earlier, own, wanted),
            together=self.together.sums(recent, weights, wanted),
        )

    def following(self, items: Tensor, wanted: Tensor | None = None) -> Tensor:
        """How much each item, or each wanted one, follows each of the given ones: (B,) -> (B, N or K), in [0, 1]."""
        return self.successors.sums(items[:, None], torch.ones(len(items), 1, device=items.device), wanted)

    def alike(self, items: Tensor) -> Tensor:
        """Cosine of each item's content with that of the given ones: (B,) -> (B, N).

        An item has 0 with itself: it is not its own neighbour.
        """
        cosines = self._products(self.content[items].float()[:, None], None)[:, 0]
        return _without_itself(cosines, items, None)

    def _products(self, vectors: Tensor, wanted: Tensor | None) -> Tensor:
        """Of vectors (B, Q, D) with the content of all items, or of the wanted ones, -> (B, Q, N or K)."""
        if wanted is None or wanted.dim() == 1:
            return vectors @ (self.content if wanted is None else self.content[wanted].float()).T
        return vectors @ self.content[wanted].float().mT


def _without_itself(cosines: Tensor, items: Tensor, wanted: Tensor | None) -> Tensor:
    """Cosines (B, N or K), with 0 for the item (B,) that they belong to. Written in place."""
    if wanted is None:
        return cosines.scatter_(1, items[:, None], 0.0)
    return cosines.masked_fill_(items[:, None] == wanted, 0.0)


def _add_at(sums: Tensor, items: Tensor, values: Tensor, wanted: Tensor | None) -> Tensor:
    """Sums (B, N or K), plus the values of items, (B, R) both, at their places. Written in place."""
    if wanted is None:
        return sums.scatter_add_(1, items, values)
    same = items[..., None] == (wanted if wanted.dim() == 1 else wanted[:, None])  # (B, R, K)
    return sums.add_((values[..., None] * same).sum(1))


def recent_items(items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The last items of histories (B, n), the last one first, and their falling weights: (B, RECENT) twice.

    An item that a history does not have has the weight 0.
    """
    back = torch.arange(RECENT, device=items.device)
    recent = items.gather(1, (lengths[:, None] - 1 - back).clamp_min(0))
    return recent, torch.where(back < lengths[:, None], DECAY**back, 0.0)
