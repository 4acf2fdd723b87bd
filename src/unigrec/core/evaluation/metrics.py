"""Ranking metrics with one relevant item per user.

A rank counts from 1; 0 means that the target was not found. Shapes: U users, B users of a batch, N items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

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


def rank_in_scores(scores: Tensor, targets: Tensor, seen: Tensor | None = None) -> Tensor:
    """Rank of each target among all items: (B, N), (B,) -> (B,). Of equal scores the lower item index comes first.

    A NaN score counts as higher than the target's, and a target with a NaN score comes last: a broken model never looks
    good.

    Args:
        seen: (B, T) item indices to leave out of the ranking (the masked protocol); -1 is padding. A target that was
            seen before is left out too and gets rank 0: a masked recommender cannot return it.
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
    """Indices (B, T) padded with -1 -> (B, N) whether an item is among them."""
    hidden = torch.zeros(like.shape[0], like.shape[1] + 1, dtype=torch.bool, device=like.device)
    hidden.scatter_(1, torch.where(seen >= 0, seen, like.shape[1]), True)
    return hidden[:, :-1]


def rank_in_list(items: Tensor, targets: Tensor) -> Tensor:
    """Rank of each target in a list of recommendations: (B, W), (B,) -> (B,), 0 if it is not in the list."""
    hits = items == targets[:, None]
    return torch.where(hits.any(1), hits.long().argmax(1) + 1, 0)


def seen_before(sequences: Sequences, users: np.ndarray, split: str) -> Tensor:
    """All items of each user before the held-out one: (B, T) padded with -1."""
    items, lengths = sequences.seen(users, split)
    return torch.as_tensor(np.where(np.arange(items.shape[1]) < lengths[:, None], items, -1))
