"""Ranking metrics with one relevant item per user.

A rank counts from 1; 0 means that the target was not found. Shapes: U users, B users of a batch, N items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unigrec.core.evaluation.protocol import GATED_CUTOFF
from unigrec.core.sequences import Sequences


def ndcg(ranks: np.ndarray, cutoff: int) -> np.ndarray:
    """Gain of each user, (U,): 1 / log2(1 + rank) within the cutoff, else 0."""
    hit = (ranks > 0) & (ranks <= cutoff)
    return np.where(hit, 1.0 / np.log2(1.0 + np.maximum(ranks, 1)), 0.0)


def recall(ranks: np.ndarray, cutoff: int) -> np.ndarray:
    """Hit of each user, (U,): 1 if the target is within the cutoff, else 0."""
    return ((ranks > 0) & (ranks <= cutoff)).astype(np.float64)


def ranking_metrics(ranks: np.ndarray, cutoffs: Sequence[int]) -> dict[str, float]:
    """Means over users, named `recall_at_10`, `ndcg_at_10`, ..."""
    metrics = {f"recall_at_{cutoff}": float(recall(ranks, cutoff).mean()) for cutoff in cutoffs}
    return metrics | {f"ndcg_at_{cutoff}": float(ndcg(ranks, cutoff).mean()) for cutoff in cutoffs}


def validation_figures(ranks: np.ndarray) -> dict[str, float]:
    """What a training logs of its validation: `validation_recall_at_10` and `protocol.SELECTED`. ranks: (U,)."""
    return {f"validation_{name}": value for name, value in ranking_metrics(ranks, [GATED_CUTOFF]).items()}


def rank_in_scores(scores: Tensor, targets: Tensor) -> Tensor:
    """Rank of each target among all items: (B, N), (B,) -> (B,). Of equal scores the lower item index comes first.

    A NaN score counts as higher than the target's, and a target with a NaN score comes last: a broken model never looks
    good.
    """
    return _count_before(scores, scores.gather(1, targets[:, None]), targets) + 1


def is_before(scores: Tensor, own: Tensor, lower: Tensor) -> Tensor:
    """Whether items (B, T) come before targets (B,), by their scores (B, T) and (B, 1): bool (B, T).

    A score that is not a number, or that is equal for all items, never looks good.

    Args:
        lower: (B, T) whether the item's index is lower than the target's, which decides between equal scores.
    """
    return ~(scores <= own) | ((scores == own) & lower)


def _count_before(scores: Tensor, own: Tensor, targets: Tensor) -> Tensor:
    """(B,) how many of all items come before the targets."""
    if scores.is_cuda:
        lower = torch.arange(scores.shape[1], device=scores.device) < targets[:, None]
        return is_before(scores, own, lower).sum(1)
    rows = zip(scores.detach().numpy(), own.detach().numpy(), targets.tolist(), strict=True)
    # To count in numpy takes a tenth of the time that torch takes to add up booleans.
    counts = [
        len(row) - np.count_nonzero(row <= score) + np.count_nonzero(row[:target] == score)
        for row, score, target in rows
    ]
    return torch.tensor(counts, dtype=torch.int64)


def rank_among_unseen(ranks: Tensor, before: Tensor, targets: Tensor, seen: Tensor) -> Tensor:
    """Ranks (B,) when the items that were seen are left out (the masked protocol), from those among all items.

    A target that was seen before is left out too and gets rank 0: a masked recommender cannot return it.

    Args:
        before: (B, T) whether each seen item comes before the target.
        seen: (B, T) item indices, which may repeat; -1 is padding.
    """
    items, order = seen.sort(1)
    counts = before.gather(1, order) & (items >= 0)
    counts[:, 1:] &= items[:, 1:] != items[:, :-1]
    return (ranks - counts.sum(1)).masked_fill((seen == targets[:, None]).any(1), 0)


def rank_in_list(items: Tensor, targets: Tensor) -> Tensor:
    """Rank of each target in a list of recommendations: (B, W), (B,) -> (B,), 0 if it is not in the list."""
    hits = items == targets[:, None]
    return torch.where(hits.any(1), hits.long().argmax(1) + 1, 0)


def seen_before(sequences: Sequences, users: np.ndarray, split: str) -> Tensor:
    """All items of each user before the held-out one: (B, T) padded with -1."""
    items, lengths = sequences.seen(users, split)
    return torch.as_tensor(np.where(np.arange(items.shape[1]) < lengths[:, None], items, -1))
