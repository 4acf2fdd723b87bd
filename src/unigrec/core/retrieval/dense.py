"""The dense retriever: a sequence model (the teacher) scores every item for each history.

Alone it is exact for every size of catalogue. For the fused ranking of a large one it reads the items of the best cells
(`NearestItems`): there, what the cells miss is found by the other parts (docs/scale.md).

Shapes: B histories of up to n items, N items, C candidates, S items read for a history.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unigrec.core.models.ensemble import Teacher, members_of
from unigrec.core.retrieval.beam import BeamResult
from unigrec.core.retrieval.cells import Cells
from unigrec.core.retrieval.neighbours import Permits
from unigrec.core.retrieval.prefix_tree import PrefixTree, Restriction
from unigrec.core.retrieval.retriever import Retriever
from unigrec.core.retrieval.rows import places_among, seen_further_left
from unigrec.core.sequences import in_chunks, last_items

SCANNED = 150_000  # items of the largest catalogue that a fused ranking scores as a whole
READ = 16_384  # items of the best cells of a larger one
SAMPLED = 4096  # of the other items, evenly spaced: what they hold of the probability
AT_ONCE = 2**26  # scores


class DenseRetriever(Retriever):
    """Scores are log-probabilities.

    Args:
        tree: of the identifiers, which restrictions and cells need.
        scanned: the most items without cells. means: of the cells, if they are known; one per network.
    """

    def __init__(
        self,
        model: Teacher,
        tree: PrefixTree,
        device: torch.device,
        scanned: int = SCANNED,
        means: Sequence[Tensor] | None = None,
    ):
        super().__init__(tree, model.history, device)
        self.model = model.to(device).eval()
        is_large = len(tree) > scanned
        tables = [network.item_vectors() for network in members_of(model)]
        self.cells = Cells(tree, tables, means) if is_large else None

    @torch.inference_mode()
    def scores(self, items: np.ndarray, lengths: np.ndarray) -> Tensor:
        """(B, N) log-probabilities after histories (B, n) of lengths (B,). Of longer histories the end is read."""
        return self.model.scores(*self._readable(items, lengths)).log_softmax(-1)

    def _readable(self, items: np.ndarray, lengths: np.ndarray) -> tuple[Tensor, Tensor]:
        short, sizes = last_items(items, lengths, self.history)
        return torch.as_tensor(short, device=self.device), torch.as_tensor(sizes, device=self.device)

    @torch.inference_mode()
    def best(self, items: np.ndarray, lengths: np.ndarray, restriction: Restriction | None, k: int) -> BeamResult:
        found = []
        for rows in in_chunks(np.arange(len(items)), max(AT_ONCE // len(self.tree), 1)):
            scores = self.scores(items[rows], lengths[rows])
            if restriction is not None:
                scores = scores.masked_fill(~restriction.permitted(len(rows), int(rows[0])), -torch.inf)
            found.append(scores.topk(min(k, scores.shape[1]), dim=-1))
        scores, best = (torch.cat(parts) for parts in zip(*found, strict=True))
        return BeamResult(best.masked_fill(scores == -torch.inf, -1), scores)

    @torch.inference_mode()
    def read(self, items: np.ndarray, lengths: np.ndarray) -> NearestItems:
        """What the best cells hold for histories (B, n) of lengths (B,)."""
        assert self.cells is not None
        return NearestItems(self.model, self.cells, *self._readable(items, lengths))


class NearestItems:
    """The items of the best cells, and those of the history, which a repeat bias may rank high.

    Scores are exact, but for a constant per history. A log-probability needs a sum over the whole catalogue: the part
    of the items that were not read is estimated from a sample of them.

    Args:
        items: (B, n) what the model reads, padded on the right by lengths (B,).
    """

    def __init__(self, model: Teacher, cells: Cells, items: Tensor, lengths: Tensor):
        self.model, self.cells = model, cells
        self.states = model.last_states(items, lengths)
        exists = torch.arange(items.shape[1], device=items.device) < lengths[:, None]
        own = items.masked_fill(~exists, -1)
        self.own = own.masked_fill(seen_further_left(own), -1)
        self.free = self._read(READ, None)
        self.total = self._total()

    def _total(self) -> Tensor:
        """(B, 1) log of the sum of the exponentials of all scores."""
        size = len(self.cells.tree)
        sampled = torch.arange(0, size, -(-size // SAMPLED), device=self.own.device)
        unread = ~places_among(sampled.expand(len(self.own), -1), self.free.items)[1]
        scores = self.model.scores_at(self.states, sampled).masked_fill(~unread, -torch.inf)
        left = size - (self.free.scores > -torch.inf).sum(1, keepdim=True)
        each = (left.clamp_min(1) / unread.sum(1, keepdim=True).clamp_min(1)).log()
        return torch.logaddexp(self.free.scores.logsumexp(1, keepdim=True), scores.logsumexp(1, keepdim=True) + each)

    def _read(self, most: int, restriction: Restriction | None) -> BeamResult:
        """The items read, each once and in no order, with their logits: (B, S) twice."""
        hidden = [states.hidden / len(self.states) for states in self.states]
        items, scores = self.cells.nearest(hidden, most, restriction)
        own = self.model.scores_at(self.states, self.own.clamp_min(0)).masked_fill(self.own < 0, -torch.inf)
        scores = scores.masked_fill(places_among(items, self.own)[1], -torch.inf)
        return BeamResult(torch.cat([items, self.own], dim=1), torch.cat([scores, own], dim=1))

    @torch.inference_mode()
    def best(self, k: int, restriction: Restriction | None) -> BeamResult:
        """The k best permitted items, as far as they were read: (B, k) twice."""
        is_free = restriction is None and k <= READ
        # Denied items are read like others, and then left out.
        denied = 0 if restriction is None or restriction.denied is None else restriction.denied.shape[1]
        read = self.free if is_free else self._read(max(READ, k + denied), restriction)
        found = best_read(read, k, -torch.inf, None if restriction is None else restriction.permits)
        return found._replace(scores=found.scores - self.total)

    @torch.inference_mode()
    def scores_of(self, items: Tensor) -> Tensor:
        """(B, C) log-probabilities of any items (B, C)."""
        return self.model.scores_at(self.states, items) - self.total


def best_read(read: BeamResult, count: int, above: float, permits: Permits | None) -> BeamResult:
    """The permitted items with the highest scores above a bound: (B, count) twice, -1 where there are fewer."""
    scores = read.scores if permits is None else read.scores.masked_fill(~permits(read.items), -torch.inf)
    found = scores.topk(min(count, scores.shape[1]), dim=-1)
    return BeamResult(read.items.gather(1, found.indices).masked_fill(found.values <= above, -1), found.values)
