"""Nested segments of users: residual k-means of their states, as the tokenizer does with items, and what tells them.

Shapes: U users, E width of a state, S segments, n pairs of a user and a thing (an item, a word).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from unigrec.core.models.tokenizers.kmeans import kmeans, squared_distances

STARTS = 5  # of k-means, with a seed each; the closest fit is kept, and the others say how stable it is
LEAST_USERS = 2  # of a segment that have a thing which tells it


class UserSegments(NamedTuple):
    """Segments of users, and the parts of each. Segments and parts are numbered from the largest."""

    segments: np.ndarray  # (U,)
    parts: np.ndarray  # (U,) within the segment
    stability: float  # of the segments: mean adjusted Rand index with the other starts
    stability_of_parts: float


class Thing(NamedTuple):
    """What the users of a segment have more often than all users."""

    thing: int
    users: int  # of the segment
    lift: float  # their share of the segment, over the share of all users


def find_segments(states: Tensor, segments: int, parts: int, seed: int) -> UserSegments:
    """Segments of states (U, E), U >= segments, and up to that many parts of each by what the centroids leave over."""
    found = [_two_levels(states, segments, parts, seed + start) for start in range(STARTS)]
    best = min(range(STARTS), key=lambda start: found[start][0])
    _, first, second = found[best]
    both = first * parts + second
    others = [found[start] for start in range(STARTS) if start != best]
    return UserSegments(
        _by_size(first),
        _by_size_within(first, second),
        stability=float(np.mean([adjusted_rand(first, one) for _, one, _ in others])),
        stability_of_parts=float(np.mean([adjusted_rand(both, one * parts + two) for _, one, two in others])),
    )


def _two_levels(states: Tensor, segments: int, parts: int, seed: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Sum of squared distances to the segments' centroids, and codes of both levels, (U,) each."""
    centroids = kmeans(states, segments, seed)
    smallest, first = squared_distances(states, centroids).min(1)
    rest = states - centroids[first]
    second = squared_distances(rest, kmeans(rest, parts, seed)).argmin(1)
    return float(smallest.double().sum()), first.numpy(), second.numpy()


def _by_size(codes: np.ndarray) -> np.ndarray:
    """The codes, numbered anew from 0 for the most frequent one; codes that nobody has leave no gap."""
    values, place, counts = np.unique(codes, return_inverse=True, return_counts=True)
    rank = np.empty(len(values), np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(values))
    return rank[place]


def _by_size_within(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    result = np.empty_like(second)
    for code in np.unique(first):
        result[first == code] = _by_size(second[first == code])
    return result


def adjusted_rand(one: np.ndarray, other: np.ndarray) -> float:
    """Agreement of two partitions (U,): 1 if they are the same, about 0 by chance (Hubert and Arabie, 1985)."""
    pairs = lambda counts: float((counts * (counts - 1) / 2).sum())  # noqa: E731
    _, one = np.unique(one, return_inverse=True)
    _, other = np.unique(other, return_inverse=True)
    together = np.unique(one * (int(other.max()) + 1) + other, return_counts=True)[1]
    in_one, in_other, in_both = pairs(np.bincount(one)), pairs(np.bincount(other)), pairs(together)
    chance = in_one * in_other / max(len(one) * (len(one) - 1) / 2, 1.0)
    most = (in_one + in_other) / 2
    return 1.0 if most == chance else (in_both - chance) / (most - chance)


def telling(inside: np.ndarray, users: np.ndarray, things: np.ndarray, most: int) -> list[Thing]:
    """The things that tell a segment from all users, the most telling first.

    A thing tells by share * log(lift): neither what all have, nor what few of the segment have.

    Args:
        inside: (U,) bool, the segment. users, things: (n,) pairs, each once. most: how many.
    """
    everywhere = np.bincount(things)
    here = np.bincount(things[inside[users]], minlength=len(everywhere))
    with np.errstate(divide="ignore", invalid="ignore"):
        lift = (here / inside.sum()) / (everywhere / len(inside))
        tells = np.where((here >= LEAST_USERS) & (lift > 1.0), here * np.log(lift), 0.0)
    best = np.argsort(-tells, kind="stable")[:most]
    return [Thing(int(thing), int(here[thing]), float(lift[thing])) for thing in best if tells[thing] > 0]
