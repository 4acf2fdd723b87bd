"""Ranking metrics with one relevant item a user, baselines, slices and the paired bootstrap.

A rank counts from 1; 0 says that the target was not found. Shapes: U users, B users of a batch, N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.data.batches import Histories, Sequences

NEIGHBOURS = 200  # co-occurring items kept for each item
ROWS_AT_ONCE = 64  # rows of the item-item matrix that are in memory together


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


def popularity_scores(sequences: Sequences) -> Tensor:
    """(N,) training interactions of each item."""
    return torch.as_tensor(sequences.train_counts(), dtype=torch.float32)


class Cooccurrence:
    """Item-item baseline: cosine of training co-occurrence, summed over the history.

    Two items co-occur where one user has both in the training part; each item keeps its `NEIGHBOURS` nearest.
    """

    def __init__(self, sequences: Sequences):
        training = sequences.is_training()
        users = np.repeat(np.arange(len(sequences.lengths)), sequences.lengths)[training]
        pairs = np.unique(np.stack([sequences.items[training], users], axis=1), axis=0)  # by item, then by user
        self.neighbours, self.similarity = self._nearest(pairs, len(sequences.lengths), sequences.catalogue_size)

    @staticmethod
    def _nearest(pairs: np.ndarray, users: int, items: int) -> tuple[Tensor, Tensor]:
        """Sorted distinct (item, user) pairs -> (N, k) neighbours and cosines, by pieces of the (N, N) matrix."""
        item, user = pairs.T
        by_user = item[np.argsort(user, kind="stable")]  # items of user 0, then of user 1, ...
        basket = np.bincount(user, minlength=users)
        basket_start = np.cumsum(basket) - basket
        scale = torch.as_tensor(np.maximum(np.bincount(item, minlength=items), 1) ** -0.5, dtype=torch.float32)
        neighbours, similarity = [], []
        for low in range(0, items, ROWS_AT_ONCE):
            high = min(low + ROWS_AT_ONCE, items)
            rows, owners = (part[slice(*np.searchsorted(item, [low, high]))] for part in (item - low, user))
            sizes = basket[owners]  # each pair meets every item of its user
            place = np.arange(sizes.sum()) + np.repeat(basket_start[owners] - np.cumsum(sizes) + sizes, sizes)
            meetings = np.repeat(rows, sizes) * items + by_user[place]
            counts = torch.zeros((high - low) * items).index_add_(
                0, torch.as_tensor(meetings), torch.ones(len(meetings))
            )
            cosine = counts.view(high - low, items).mul_(scale).mul_(scale[low:high, None])
            cosine.diagonal(low).zero_()
            top = cosine.topk(min(NEIGHBOURS, items), dim=1)
            neighbours.append(top.indices)
            similarity.append(top.values)
        return torch.cat(neighbours), torch.cat(similarity)

    def scores(self, histories: Histories) -> Tensor:
        """(B, N) summed cosine of each item with the items of the history."""
        history = torch.as_tensor(histories.items)
        steps = torch.arange(history.shape[1])
        weight = (steps < torch.as_tensor(histories.lengths)[:, None]).float()  # (B, T)
        values = self.similarity[history] * weight[..., None]  # (B, T, k)
        scores = torch.zeros(len(history), len(self.neighbours))
        return scores.scatter_add_(1, self.neighbours[history].flatten(1), values.flatten(1))


class Cooccurring(NamedTuple):
    """What some items are bought together with."""

    items: np.ndarray  # (R,) item indices, rising
    neighbours: np.ndarray  # (R, n) item indices, the nearest first; -1 where an item has fewer, and every item has one


def sample_cooccurring(sequences: Sequences, count: int, sample: int, seed: int) -> Cooccurring | None:
    """The `count` nearest items by cosine of training co-occurrence, for some of the items that have any.

    As `Cooccurrence`, but without a row of N numbers for an item: for at most `sample` items, drawn with the seed, time
    and memory depend on the training interactions and not on the catalogue. Of equal cosines the lower item index
    comes first.

    Returns:
        None where no user has two items in the training part.
    """
    training, users, total = sequences.is_training(), len(sequences.lengths), sequences.catalogue_size
    owner = np.repeat(np.arange(users), sequences.lengths)[training]
    item, user = np.divmod(np.unique(sequences.items[training] * users + owner), users)  # distinct, by item
    basket, popularity = np.bincount(user, minlength=users), np.bincount(item, minlength=total)
    items = np.unique(item[basket[user] > 1])  # beside another one in some user's basket
    if not len(items):
        return None
    if len(items) > sample:
        items = np.sort(np.random.default_rng(seed).choice(items, sample, replace=False))
    by_user = item[np.argsort(user, kind="stable")]  # items of user 0, then of user 1, ...
    owners = user[_ranges(np.searchsorted(item, items), popularity[items])]  # users of the first item, of the next ...
    row = np.repeat(np.arange(len(items)), popularity[items])
    met = by_user[_ranges((np.cumsum(basket) - basket)[owners], basket[owners])]
    pairs, times = np.unique(np.repeat(row, basket[owners]) * total + met, return_counts=True)
    row, other = np.divmod(pairs, total)
    cosine = np.where(other == items[row], -1.0, times / np.sqrt(popularity[items[row]] * popularity[other]))
    order = np.lexsort((other, -cosine, row))
    place = _ranges(np.zeros(len(items), np.int64), np.bincount(row))  # among the row's, the nearest first
    kept = (place < count) & (cosine[order] > 0)
    neighbours = np.full((len(items), count), -1)
    neighbours[row[order][kept], place[kept]] = other[order][kept]
    return Cooccurring(items, neighbours)


def _ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """start, start + 1, ... of each range, one range after the other."""
    return np.arange(sizes.sum()) + np.repeat(starts - np.cumsum(sizes) + sizes, sizes)


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


def paired_bootstrap(candidate: np.ndarray, reference: np.ndarray, resamples: int, seed: int) -> dict[str, float]:
    """Paired bootstrap of mean(candidate - reference) over the same users.

    Returns:
        `difference`, `low` and `high` (95 % interval), and `p_not_better`: the share of resamples in which the
        candidate is not better.
    """
    assert candidate.shape == reference.shape, "the same users in the same order"
    difference = candidate - reference
    generator = np.random.default_rng(seed)
    means = np.array(
        [difference[generator.integers(0, len(difference), len(difference))].mean() for _ in range(resamples)]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "difference": float(difference.mean()),
        "low": float(low),
        "high": float(high),
        "p_not_better": float((means <= 0).mean()),
    }
