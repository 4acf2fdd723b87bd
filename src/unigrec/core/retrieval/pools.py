"""Candidates of the dense scorer, the neighbours and the own items for a fused ranking, and what these say of any.

`WholeCatalogue` scores every item: exact. Its time grows with the catalogue. Of a large one `BestCells` reads the
counted pairs, and the items of the best cells (`unigrec.core.retrieval.cells`) for dense scores and content. What it
says of a candidate is exact too.

Shapes: B histories of up to n items, N items, X items of a pool, C candidates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from unigrec.core.retrieval.beam import BeamResult
from unigrec.core.retrieval.cells import Cells
from unigrec.core.retrieval.dense import NearestItems, best_read
from unigrec.core.retrieval.neighbours import Near, Neighbours, Permits, recent_items
from unigrec.core.retrieval.own_items import OwnItems
from unigrec.core.retrieval.prefix_tree import Restriction

FROM_DENSE, FROM_NEIGHBOURS, FROM_OWN = 40, 10, 40  # candidates of each kind
CANDIDATES_FROM = ("follows", "alike", "together")  # fields of `Near`
READ_BY_CONTENT = 8_192  # items of the best cells


class Pools(ABC):
    """What the dense scorer, the neighbours and the own items say of B histories.

    own: None if they have no weight. own_last: whether their weight is below 0. Then the candidates are others, and own
        items only where there are too few.
    """

    own: OwnItems | None
    own_last: bool

    @abstractmethod
    def pool(self, restriction: Restriction | None, k: int) -> Tensor:
        """(B, X) the permitted items that each of them would rank high, at least k of the dense ones; -1 for none."""

    @abstractmethod
    def features(self, items: Tensor) -> list[Tensor]:
        """Of candidates (B, C), -1 for none: the dense part, the fields of `Near`, the own items. (B, C) each."""

    def _own_items(self, restriction: Restriction | None) -> list[Tensor]:
        permits = None if restriction is None else restriction.permits
        return [] if self.own is None or self.own_last else [self.own.most_frequent(FROM_OWN, permits)]

    def _own_strength(self, items: Tensor) -> Tensor:
        return torch.zeros(items.shape, device=items.device) if self.own is None else self.own.strength(items)


class WholeCatalogue(Pools):
    """Scores of all items. log_dense: (B, N). near: (B, N) each."""

    def __init__(self, log_dense: Tensor, near: Near, own: OwnItems | None, own_last: bool):
        self.log_dense, self.near, self.own, self.own_last = log_dense, near, own, own_last

    def pool(self, restriction: Restriction | None, k: int) -> Tensor:
        permitted = None if restriction is None else restriction.permitted(len(self.log_dense))
        count = max(FROM_DENSE, k)
        if self.own is not None and self.own_last:
            likely = self.own.last(best(self.log_dense, count + self.own.longest, float("-inf"), permitted))[:, :count]
            others = ~self.own.among(self.log_dense.shape[1])
            permitted = others if permitted is None else permitted & others
        else:
            likely = best(self.log_dense, count, float("-inf"), permitted)
        nearest = [best(getattr(self.near, name), FROM_NEIGHBOURS, 0.0, permitted) for name in CANDIDATES_FROM]
        return torch.cat([likely, *nearest, *self._own_items(restriction)], dim=1)

    def features(self, items: Tensor) -> list[Tensor]:
        index = items.clamp_min(0)
        return [*(scores.gather(1, index) for scores in (self.log_dense, *self.near)), self._own_strength(index)]


def best(scores: Tensor, count: int, above: float, permitted: Tensor | None) -> Tensor:
    """(B, count) the items of the highest scores; -1 where fewer are permitted and have a score above the bound."""
    if permitted is not None:
        scores = scores.masked_fill(~permitted, float("-inf"))
    found = scores.topk(min(count, scores.shape[1]), dim=-1)
    return found.indices.masked_fill(found.values <= above, -1)


class BestCells(Pools):
    """The items of the best cells.

    Args:
        dense: what was read for the histories. by_content: the content's cells. items: (B, n) histories, padded on the
            right by lengths (B,), none 0.
    """

    def __init__(
        self,
        dense: NearestItems,
        neighbours: Neighbours,
        by_content: Cells,
        items: Tensor,
        lengths: Tensor,
        own: OwnItems | None,
        own_last: bool,
    ):
        self.dense, self.neighbours, self.by_content = dense, neighbours, by_content
        self.items, self.lengths, self.own, self.own_last = items, lengths, own, own_last

    def pool(self, restriction: Restriction | None, k: int) -> Tensor:
        neighbours, (recent, weights) = self.neighbours, recent_items(self.items, self.lengths)
        permits: Permits | None = None if restriction is None else restriction.permits
        last, count = recent[:, :1], max(FROM_DENSE, k)
        if self.own is not None and self.own_last:
            likely = self.own.last(self.dense.best(count + self.own.longest, restriction).items)[:, :count]
            permits = self.own.others(permits)
        else:
            likely = self.dense.best(count, restriction).items
        follow = neighbours.successors.largest(last, weights[:, :1], FROM_NEIGHBOURS, permits)
        together = neighbours.together.largest(recent, weights, FROM_NEIGHBOURS, permits)
        query = [neighbours.content[last[:, 0]].float()]
        read, cosines = self.by_content.nearest(query, READ_BY_CONTENT, restriction)
        alike = BeamResult(read, cosines.masked_fill(read == last, 0.0))
        near = best_read(alike, FROM_NEIGHBOURS, 0.0, permits).items
        return torch.cat([likely, follow, together, near, *self._own_items(restriction)], dim=1)

    def features(self, items: Tensor) -> list[Tensor]:
        index = items.clamp_min(0)
        near = self.neighbours.near(self.items, self.lengths, wanted=index)
        return [self.dense.scores_of(index), *near, self._own_strength(index)]
