"""Ranking metrics with one relevant item a user, baselines, slices and the paired bootstrap.

A rank counts from 1; 0 says that the target was not found. Shapes: U users, B users of a batch, N items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unigrec.core.sequences import Sequences


def ndcg(ranks: np.ndarray, cutoff: int) -> np.ndarray:
    """(U,) gain of each user: 1 / log2(1 + rank) within the cutoff, else 0."""
    hit = (ranks > 0) & (ranks <= cutoff)
    return np.where(hit, 1.0 / np.log2(1.0 + np.maximum(ranks, 1)), 0.0)


def recall(ranks: np.ndarray, cutoff: int) -> np.ndarray:
    """(U,) 1 where the target is within the cutoff, else 0."""
    return ((ranks > 0) & (ranks <= cutoff)).astype(np.float64)


def ranking_metrics(ranks: np.ndarray, cutoffs: Sequence[int]) -> dict[str, float]:
    """Means over users, named `recall_at_10`, `ndcg_at_10`, ..."""
    metrics = {f"recall_at_{cutoff}": float(recall(ranks, cutoff).mean()) for cutoff in cutoffs}
    return metrics | {f"ndcg_at_{cutoff}": float(ndcg(ranks, cutoff).mean()) for cutoff in cutoffs}


def rank_in_scores(scores: Tensor, targets: Tensor, seen: Tensor | None = None) -> Tensor:
    """Rank of each target among all items: (B, N), (B,) -> (B,). Of equal scores the lower item index comes first.

    A score that is not a number counts as higher than the target's, and a target without one comes last: a broken model
    never looks good.

    Args:
        seen: (B, T) item indices to be left out of the ranking (the masked protocol); -1 is padding. A target that was
            seen before is left out as well, and gets rank 0: a masked recommender cannot return it.
    """
    own = scores.gather(1, targets[:, None])
    before = ~(scores <= own) | (
        (scores == own) & (torch.arange(scores.shape[1], device=scores.device) < targets[:, None])
    )
    if seen is None:
        return before.sum(1) + 1
    hidden = _scatter_seen(before, seen)
    ranks = (before & ~hidden).sum(1) + 1
    return ranks.masked_fill(hidden.gather(1, targets[:, None])[:, 0], 0)


def _scatter_seen(like: Tensor, seen: Tensor) -> Tensor:
    """(B, T) indices padded with -1 -> (B, N) bool."""
    hidden = torch.zeros(like.shape[0], like.shape[1] + 1, dtype=torch.bool, device=like.device)
    hidden.scatter_(1, torch.where(seen >= 0, seen, like.shape[1]), True)
    return hidden[:, :-1]


def rank_in_list(items: Tensor, targets: Tensor) -> Tensor:
    """Rank of each target in a list of recommendations: (B, W), (B,) -> (B,), 0 where it is not in the list."""
    hits = items == targets[:, None]
    return torch.where(hits.any(1), hits.long().argmax(1) + 1, 0)


def seen_before(sequences: Sequences, users: np.ndarray, split: str) -> Tensor:
    """(B, T) every item a user had before the held-out one, padded with -1."""
    items, lengths = sequences.seen(users, split)
    return torch.as_tensor(np.where(np.arange(items.shape[1]) < lengths[:, None], items, -1))
