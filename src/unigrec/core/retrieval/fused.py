"""The fused retriever: candidates of the dense scorer, the generative retriever and the neighbours, ranked by all.

    score(i) = log p_dense(i) + a * log max(p_generative(i), floor) + sum_j w_j * near_j(history, i) + o * own(i)

where near_j counts what follows the last item, what follows those before it, what the same users had, and how alike the
contents are (`Near`). own says how often the whole history holds the item (`OwnItems`). Its weight may be below 0:
neighbours count what the user had like any other item, and the models read the end of a long history alone.

Models make different mistakes, so the sum ranks better than each of its parts. The weights are fitted on validation
users (`fit_weights`). The generative part knows rare items badly: below the floor its probabilities tell nothing. Each
candidate has its exact scores: the dense ones by one product over the catalogue, or over a part of one of more than
`dense.SCANNED` items, the generative one by a search that is restricted to the candidates, and that leaves prefixes
below the floor.

Shapes: B histories, N items, C candidates, F = 8 features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.core.retrieval.beam import BeamResult
from unigrec.core.retrieval.cells import Cells
from unigrec.core.retrieval.dense import DenseRetriever
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.retrieval.neighbours import Neighbours
from unigrec.core.retrieval.own_items import OwnItems
from unigrec.core.retrieval.pools import BestCells, Pools, WholeCatalogue
from unigrec.core.retrieval.prefix_tree import Restriction
from unigrec.core.retrieval.retriever import Retriever
from unigrec.core.retrieval.rows import places_among, seen_further_left
from unigrec.core.sequences import LONGEST

FLOOR_ODDS, HIGHEST_FLOOR = 5.0, 0.01  # the floor: that many times chance, at most that probability


class Weights(NamedTuple):
    """Weights of the fused score, next to 1 for the dense part."""

    generative: float
    follows: float
    alike: float
    follows_earlier: float = 0.0
    alike_earlier: float = 0.0
    together: float = 0.0
    own: float = 0.0

    def of_features(self) -> Tensor:
        """(F,) in the order of `FEATURES`."""
        return torch.tensor([1.0, *self])


FEATURES = ("dense", *Weights._fields)
OWN = FEATURES.index("own")


class Candidates(NamedTuple):
    """Items that may be ranked high, each once per row."""

    items: Tensor  # (B, C) catalogue indices; -1 for none
    features: Tensor  # (B, C, F), in the order of `FEATURES`; 0 for none

    def ranked(self, weights: Tensor) -> BeamResult:
        """Sorted by the weighted sum of their features; of equal sums, the lower item index first. weights: (F,)."""
        items, order = self.items.sort(-1)
        features = self.features.gather(1, order[..., None].expand(self.features.shape))
        scores = (features * weights).sum(-1).masked_fill(items < 0, float("-inf"))
        scores, order = scores.sort(dim=-1, descending=True, stable=True)
        return BeamResult(items.gather(1, order), scores)


class Found(NamedTuple):
    """What a search finds."""

    beam: BeamResult  # of the generative retriever alone
    candidates: Candidates  # its items among them


class FusedRetriever(Retriever):
    """A generative and a dense retriever and neighbours of one catalogue.

    Args:
        weights: None while they are not known yet: then only `search` can be used.
        means: of the content's cells, if they are known.
    """

    def __init__(
        self,
        generative: GenerativeRetriever,
        dense: DenseRetriever,
        neighbours: Neighbours,
        weights: Weights | None = None,
        means: Tensor | None = None,
    ):
        super().__init__(generative.tree, max(generative.history, dense.history, LONGEST), generative.device)
        self.generative, self.dense, self.neighbours = generative, dense, neighbours.to(self.device)
        self.weights = None if weights is None else weights.of_features().to(self.device)
        self.by_content: Cells | None = None
        if dense.cells is not None:
            known = None if means is None else [means]
            self.by_content = Cells(generative.tree, [self.neighbours.content], known)
        self.floor = math.log(min(FLOOR_ODDS / len(generative.tree), HIGHEST_FLOOR))

    def with_weights(self, weights: Weights | None) -> FusedRetriever:
        """The same parts, ranked with these weights; with None, only `search` can be used."""
        other = copy(self)
        other.weights = None if weights is None else weights.of_features().to(self.device)
        return other

    def _pools(self, items: np.ndarray, lengths: np.ndarray) -> Pools:
        history, sizes = (torch.as_tensor(part, device=self.device) for part in (items, lengths))
        weight = 1.0 if self.weights is None else float(self.weights[OWN])
        own, last = OwnItems(history, sizes) if weight else None, weight < 0.0
        if self.by_content is not None:
            read = self.dense.read(items, lengths)
            return BestCells(read, self.neighbours, self.by_content, history, sizes, own=own, own_last=last)
        near = self.neighbours.near(history, sizes)
        return WholeCatalogue(self.dense.scores(items, lengths), near, own=own, own_last=last)

    def best(self, items: np.ndarray, lengths: np.ndarray, restriction: Restriction | None, k: int) -> BeamResult:
        (found,) = self.search(items, lengths, [restriction], k)
        return self.ranked(found.candidates)

    def ranked(self, candidates: Candidates) -> BeamResult:
        """The candidates, sorted by their fused score."""
        assert self.weights is not None
        return candidates.ranked(self.weights)

    @torch.inference_mode()
    def search(
        self, items: np.ndarray, lengths: np.ndarray, restrictions: Sequence[Restriction | None] = (None,), k: int = 0
    ) -> list[Found]:
        """Candidates for each restriction: items (B, n), padded on the right, and lengths (B,), none 0.

        k: at least so many candidates, if the restriction leaves them.
        """
        known = self._pools(items, lengths)
        pools = [known.pool(restriction, k) for restriction in restrictions]
        # One pass of the decoder serves the beam and the candidates of the others.
        beam = max(k, self.generative.beam)
        searches = [*restrictions, *(Restriction(self.tree, only=pool) for pool in pools)]
        widths = [beam] * len(pools) + [pool.shape[1] for pool in pools]
        above = [float("-inf")] * len(pools) + [self.floor] * len(pools)
        found = self.generative.search(items, lengths, searches, widths, above)
        results = []
        for pool, free, pooled in zip(pools, found[: len(pools)], found[len(pools) :], strict=True):
            again = seen_further_left(torch.cat([free.items, pool], dim=1))[:, free.items.shape[1] :]
            chosen = torch.cat([free.items, pool.masked_fill(again, -1)], dim=1)
            generative = torch.cat([free.scores.clamp_min(self.floor), _scores_of(pool, pooled, self.floor)], dim=1)
            dense, *near = known.features(chosen)
            stacked = torch.stack([dense, generative, *near], -1).masked_fill((chosen < 0)[..., None], 0.0)
            results.append(Found(free, Candidates(chosen, stacked)))
        return results


def _scores_of(items: Tensor, found: BeamResult, other: float) -> Tensor:
    """(B, P) the scores of items (B, P) among what was found; `other` for an item that was not."""
    place, is_found = places_among(items, found.items)
    return torch.where(is_found & (items >= 0), found.scores.gather(1, place), other)
