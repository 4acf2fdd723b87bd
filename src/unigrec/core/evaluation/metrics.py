"""Ranking metrics with one relevant item a user, baselines, slices and the paired bootstrap.

A rank counts from 1; 0 says that the target was not found. Shapes: U users, B users of a batch, N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unigrec.core.sequences import Sequences

DRAWS_AT_ONCE = 2**21  # counts that a bootstrap holds in memory


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


def slices(sequences: Sequences, users: np.ndarray) -> dict[str, np.ndarray]:
    """Named (U,) masks over test users: popularity tercile of the target, history length, cold targets."""
    test = sequences.held_out(users, "test", 1)
    counts = sequences.train_counts()
    popularity = counts[test.targets]
    history = sequences.lengths[users] - 1
    low, high = np.quantile(np.sort(counts), [1 / 3, 2 / 3])
    return {
        "target popularity: lowest third of items": popularity <= low,
        "target popularity: middle third of items": (popularity > low) & (popularity <= high),
        "target popularity: highest third of items": popularity > high,
        "history: up to 5 items": history <= 5,
        "history: 6 to 10 items": (history > 5) & (history <= 10),
        "history: more than 10 items": history > 10,
        "cold target: fewer than 5 training interactions": popularity < 5,
        "cold target: unseen in training": popularity == 0,
    }


def metrics_by_slice(ranks: dict[tuple[str, str], np.ndarray], masks: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Recall@10 and NDCG@10 in each slice that has a user: (model, protocol) -> (U,) ranks, and (U,) masks -> rows."""
    return [
        {"slice": name, "users": int(mask.sum()), "model": model, "protocol": protocol}
        | ranking_metrics(found[mask], [10])
        for (model, protocol), found in ranks.items()
        for name, mask in masks.items()
        if mask.any()
    ]


def bootstrap_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """(U,) values -> (resamples,) means of U of them drawn with replacement.

    How often each *distinct* value is drawn is multinomial, and gains of ranked lists take few values: that is the same
    distribution as drawing users one by one, in a fraction of the time.
    """
    distinct, counts = np.unique(values, return_counts=True)
    shares, generator = counts / len(values), np.random.default_rng(seed)
    at_once = max(1, DRAWS_AT_ONCE // len(distinct))
    means = np.empty(resamples)
    for start in range(0, resamples, at_once):
        piece = means[start : start + at_once]
        piece[:] = generator.multinomial(len(values), shares, size=len(piece)) @ distinct / len(values)
    return means


def paired_bootstrap(candidate: np.ndarray, reference: np.ndarray, resamples: int, seed: int) -> dict[str, float]:
    """Paired bootstrap of mean(candidate - reference) over the same users.

    Returns:
        `difference`, `low` and `high` (95 % interval, so 97.5 % on either side alone), and `p_not_better`: the share of
        resamples in which the candidate is not better.
    """
    assert candidate.shape == reference.shape, "the same users in the same order"
    difference = candidate - reference
    means = bootstrap_means(difference, resamples, seed)
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "difference": float(difference.mean()),
        "low": float(low),
        "high": float(high),
        "p_not_better": float((means <= 0).mean()),
    }
