"""Ranking metrics with one relevant item a user, baselines, slices and the paired bootstrap.

A rank counts from 1; 0 says that the target was not found. Shapes: U users, B users of a batch, N items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.core.sequences import Histories, Sequences

NEIGHBOURS = 200  # co-occurring items kept for each item
MEETINGS_AT_ONCE = 2**24  # pairs of items of one user that are counted together
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


def popularity_scores(sequences: Sequences) -> Tensor:
    """(N,) training interactions of each item."""
    return torch.as_tensor(sequences.train_counts(), dtype=torch.float32)


class Cooccurrence:
    """Item-item baseline: cosine of training co-occurrence, summed over the history.

    Two items co-occur where one user has both in the training part; each item keeps its `NEIGHBOURS` nearest.
    """

    def __init__(self, sequences: Sequences):
        counts, neighbours, cosines = np.zeros(sequences.catalogue_size, np.int64), [], []
        for row, other, cosine in _nearest(_baskets(sequences), np.arange(len(counts)), NEIGHBOURS):
            counts += np.bincount(row, minlength=len(counts))
            neighbours.append(other.astype(np.int32))
            cosines.append(cosine)
        self.starts = np.r_[0, np.cumsum(counts)]  # (N + 1,) item i has neighbours starts[i] .. starts[i + 1]
        self.neighbours, self.cosines = np.concatenate(neighbours), np.concatenate(cosines)

    def scores(self, histories: Histories) -> Tensor:
        """(B, N) summed cosine of each item with the items of the history."""
        there = np.arange(histories.items.shape[1]) < histories.lengths[:, None]
        row, items, N = np.nonzero(there)[0], histories.items[there], len(self.starts) - 1
        sizes = self.starts[items + 1] - self.starts[items]
        places = _ranges(self.starts[items], sizes)
        index = np.repeat(row, sizes) * N + self.neighbours[places]
        scores = torch.zeros(len(there) * N)
        return scores.scatter_add_(0, torch.as_tensor(index), torch.as_tensor(self.cosines[places])).view(-1, N)


class Cooccurring(NamedTuple):
    """What some items are bought together with."""

    items: np.ndarray  # (R,) item indices, rising
    neighbours: np.ndarray  # (R, n) item indices, the nearest first; -1 where an item has fewer, and every item has one


def sample_cooccurring(sequences: Sequences, count: int, sample: int, seed: int) -> Cooccurring | None:
    """The `count` nearest items by cosine of training co-occurrence, for some of the items that have any.

    For at most `sample` items, drawn with the seed: their time and memory do not depend on the catalogue.

    Returns:
        None where no user has two items in the training part.
    """
    baskets = _baskets(sequences)
    items = np.unique(baskets.items[np.repeat(baskets.sizes > 1, baskets.sizes)])  # beside another one of some user
    if not len(items):
        return None
    if len(items) > sample:
        items = np.sort(np.random.default_rng(seed).choice(items, sample, replace=False))
    neighbours = np.full((len(items), count), -1)
    for row, other, _ in _nearest(baskets, items, count):
        neighbours[row, _places(row)] = other
    return Cooccurring(items, neighbours)


class _Baskets(NamedTuple):
    """Who has what in the training part, no matter how often."""

    owners: np.ndarray  # users of the first item, of the next, ...
    popularity: np.ndarray  # (N,) users of each item
    items: np.ndarray  # items of the first user, of the next, ...
    sizes: np.ndarray  # (U,) items of each user


def _baskets(sequences: Sequences) -> _Baskets:
    training, users = sequences.is_training(), len(sequences.lengths)
    owner = np.repeat(np.arange(users), sequences.lengths)[training]
    pairs = np.sort(sequences.items[training] * users + owner)
    item, user = np.divmod(pairs[np.diff(pairs, prepend=-1) > 0], users)  # by item, then by user
    by_user = item[np.argsort(user, kind="stable")]
    popularity = np.bincount(item, minlength=sequences.catalogue_size)
    return _Baskets(user, popularity, by_user, np.bincount(user, minlength=users))


def _nearest(baskets: _Baskets, items: np.ndarray, count: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The `count` items with the highest cosine of each of `items` (R,), as long as it is above 0.

    Row in `items`, other item, and cosine (float32) of each pair; in a row the nearest first, of equal cosines the
    lower item index. Piece by piece: time and memory depend on how often items meet in a basket, not on N * N.
    """
    total = len(baskets.popularity)
    item_start = np.cumsum(baskets.popularity) - baskets.popularity
    user_start = np.cumsum(baskets.sizes) - baskets.sizes
    meetings = np.add.reduceat(np.r_[baskets.sizes[baskets.owners], 0], item_start) * (baskets.popularity > 0)
    piece = np.cumsum(meetings[items]) // MEETINGS_AT_ONCE
    for rows in np.split(np.arange(len(items)), np.flatnonzero(np.diff(piece)) + 1):
        own = items[rows]
        owners = baskets.owners[_ranges(item_start[own], baskets.popularity[own])]
        met = baskets.items[_ranges(user_start[owners], baskets.sizes[owners])]
        row = np.repeat(np.repeat(rows, baskets.popularity[own]), baskets.sizes[owners])
        pairs, times = np.unique(row * total + met, return_counts=True)
        row, other = np.divmod(pairs, total)
        different = other != items[row]
        row, other, times = row[different], other[different], times[different]
        # Whole numbers over whole numbers: equal cosines are equal here, to the last bit.
        square = times**2 / (baskets.popularity[items[row]] * baskets.popularity[other])
        near = square >= _least_of_the_largest(square, row, count)
        row, other, square = row[near], other[near], square[near]
        order = np.lexsort((-square, row))
        order = order[_places(row) < count]  # the same rows before and after sorting
        yield row[order], other[order], np.sqrt(square[order]).astype(np.float32)


def _least_of_the_largest(values: np.ndarray, row: np.ndarray, count: int) -> np.ndarray:
    """For each value, the least of the `count` largest of its run of equal row numbers; -inf where a run has fewer."""
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    sizes = np.diff(np.r_[starts, len(row)])
    least = np.full(len(starts), -np.inf)
    for run in np.flatnonzero(sizes > count):
        part = values[starts[run] : starts[run] + sizes[run]]
        least[run] = np.partition(part, sizes[run] - count)[sizes[run] - count]
    return np.repeat(least, sizes)


def _places(row: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each run of equal row numbers."""
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    return _ranges(np.zeros(len(starts), np.int64), np.diff(np.r_[starts, len(row)]))


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
