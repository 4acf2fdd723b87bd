"""Neighbours counted in a log, and the catalogue ranked by neighbours alone: the honest baseline of a trained model.

The ranking by collaborative and content neighbours of the last items is that of STAR (arXiv 2410.16458); the term for
direct successors is added.

Shapes: N items, D content dimensions, B histories.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from unigrec.core.blocks import row_blocks
from unigrec.core.retrieval.cooccurrence import Cooccurrence, count_successors
from unigrec.core.retrieval.neighbours import RECENT, Neighbours, Pairs
from unigrec.core.sequences import Histories, Sequences

DECAY = 0.4  # of an item's weight, per item after it
CONTENT_SHARE = 0.5  # of the similarity; the rest is co-occurrence


def count_neighbours(sequences: Sequences, embeddings: Tensor) -> Neighbours:
    """From the training part of the sequences and the item embeddings (N, D). Values are rounded as in files."""
    successors, together = count_successors(sequences), Cooccurrence(sequences).nearest
    content = torch.empty_like(embeddings)
    for source, target in zip(row_blocks(embeddings), row_blocks(content), strict=True):
        target.copy_(F.normalize(source, dim=1).half())
    return Neighbours(_pairs(successors), _pairs(together), content)


def _pairs(counted: csr_array) -> Pairs:
    starts, items = (torch.as_tensor(part, dtype=torch.int64) for part in (counted.indptr, counted.indices))
    return Pairs(starts, items, torch.as_tensor(counted.data).half().float())


class NeighbourRanking:
    """Ranks the catalogue by neighbours alone."""

    def __init__(self, neighbours: Neighbours, cooccurrence: Cooccurrence):
        self.neighbours, self.cooccurrence = neighbours, cooccurrence

    def scores(self, histories: Histories) -> Tensor:
        """(B, N) for histories of at least one item each."""
        items, lengths = torch.as_tensor(histories.items), torch.as_tensor(histories.lengths)
        scores = self.neighbours.following(items.gather(1, lengths[:, None] - 1)[:, 0])
        for back in range(min(RECENT, items.shape[1])):
            rows = (lengths > back).nonzero()[:, 0]
            recent = items[rows, lengths[rows] - 1 - back]
            similarity = self.neighbours.alike(recent)
            counted = self.cooccurrence.nearest[recent.numpy()]
            row = np.repeat(np.arange(len(recent)), np.diff(counted.indptr))
            entries = torch.as_tensor(row), torch.as_tensor(counted.indices, dtype=torch.int64)
            shared = torch.from_numpy(counted.data) * ((1.0 - CONTENT_SHARE) / CONTENT_SHARE)
            similarity.index_put_(entries, shared, accumulate=True)
            weights = DECAY**back / lengths[rows].clamp_max(RECENT) * CONTENT_SHARE
            scores.index_add_(0, rows, similarity.mul_(weights[:, None]))
        return scores
