"""The dense retriever: a sequence model (the teacher) scores every item for each history.

Shapes: B histories of up to n items, N items.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unigrec.core.models.ensemble import Teacher
from unigrec.core.retrieval.beam import BeamResult
from unigrec.core.retrieval.prefix_tree import PrefixTree, Restriction
from unigrec.core.retrieval.retriever import Retriever
from unigrec.core.sequences import last_items


class DenseRetriever(Retriever):
    """Scores are log-probabilities. tree: of the identifiers, which only restrictions need."""

    def __init__(self, model: Teacher, tree: PrefixTree, device: torch.device):
        super().__init__(tree, model.history, device)
        self.model = model.to(device).eval()

    @torch.inference_mode()
    def scores(self, items: np.ndarray, lengths: np.ndarray) -> Tensor:
        """(B, N) log-probabilities after histories (B, n) of lengths (B,). Of longer histories the end is read."""
        short = (torch.as_tensor(part, device=self.device) for part in last_items(items, lengths, self.history))
        return self.model.scores(*short).log_softmax(-1)

    def best(self, items: np.ndarray, lengths: np.ndarray, restriction: Restriction | None, k: int) -> BeamResult:
        scores = self.scores(items, lengths)
        if restriction is not None:
            scores = scores.masked_fill(~restriction.permitted(len(scores)), float("-inf"))
        found = scores.topk(min(k, scores.shape[1]), dim=-1)
        return BeamResult(found.indices.masked_fill(found.values == float("-inf"), -1), found.values)
