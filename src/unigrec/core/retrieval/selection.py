"""Lists under rules: at most so many items per group, and weights added to the scores of some items.

A rule asks the search again, without the items of the groups that are full, until k items are found or none is left. So
the list is what picking from the whole ranking, best first, would give.

Shapes: B histories, N items, G groups of an item.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.core.retrieval.beam import BeamResult

# For some of the histories (their rows), the best `count` of the allowed items, (N,) bool or all of them.
Search = Callable[[Sequence[int], Tensor | None, int], BeamResult]
CANDIDATES = 4  # times k: what the first search looks for


class Quota(NamedTuple):
    """At most `most` items of a list may be in one group."""

    groups: np.ndarray  # (N, G) int64 numbers of each item's groups, padded with -1
    most: int
    yields: bool = False  # rather than that the list stays short

    def full(self, used: np.ndarray) -> np.ndarray:
        """(N,) bool: items in a group without a place left. used: (groups + 1,) items per group, the last unused."""
        closed = used >= self.most
        closed[-1] = False  # where -1 leads: no group
        return closed[self.groups].any(1)


def boosted(search: Search, weights: Tensor, allowed: Tensor | None) -> Search:
    """A search by score plus weight, exact where the search is: one search per distinct weight.

    Args:
        weights: (N,) added to the scores. allowed: (N,) bool, the items that any later call may allow.
    """
    distinct = weights.unique() if allowed is None else weights[allowed].unique()

    def find(rows: Sequence[int], permitted: Tensor | None, count: int) -> BeamResult:
        found = []
        for weight in distinct:
            mask = weights == weight
            mask = mask if permitted is None else mask & permitted
            if mask.any():
                best = search(rows, mask, count)
                found.append(BeamResult(best.items, best.scores + weight))
        if not found:
            return BeamResult(torch.full((len(rows), 1), -1), torch.full((len(rows), 1), float("-inf")))
        items, scores = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        return BeamResult(items.gather(1, order)[:, :count], scores[:, :count])

    return find


def select(search: Search, rows: int, k: int, allowed: Tensor | None, quotas: Sequence[Quota]) -> BeamResult:
    """The k best items for each history that the quotas admit: (B, k) twice, -1 and -inf where there are fewer.

    An item that is in several groups needs a place in each. A quota that yields is dropped for the places that would
    stay empty.

    Args:
        rows: B. allowed: (N,) bool.
    """
    if not quotas:
        return search(range(rows), allowed, k)
    items = len(quotas[0].groups)
    count = min(CANDIDATES * k, items)
    first = search(range(rows), allowed, count)
    result = BeamResult(torch.full((rows, k), -1), first.scores.new_full((rows, k), float("-inf")))
    for row in range(rows):
        choice = _Choice(k, quotas)
        choice.take(first.items[row].tolist(), first.scores[row].tolist())
        for stage in (quotas, [quota for quota in quotas if not quota.yields]):
            choice.quotas = stage
            while len(choice.items) < k:
                left = choice.left(items, allowed)
                if not left.any():
                    break
                found = search([row], left, count)
                if not choice.take(found.items[0].tolist(), found.scores[0].tolist()):
                    break
            if len(choice.items) == k:
                break
        order = np.argsort(-np.array(choice.scores), kind="stable")
        result.items[row, : len(order)] = torch.tensor(choice.items, dtype=torch.long)[order]
        result.scores[row, : len(order)] = torch.tensor(choice.scores, dtype=first.scores.dtype)[order]
    return result


class _Choice:
    """The list of one history as it grows."""

    def __init__(self, k: int, quotas: Sequence[Quota]):
        self.k, self.quotas = k, quotas
        self.items: list[int] = []
        self.scores: list[float] = []
        self.used = {id(quota): np.zeros(int(quota.groups.max(initial=-1)) + 2, np.int64) for quota in quotas}

    def take(self, items: Sequence[int], scores: Sequence[float]) -> int:
        """Take what the quotas admit, best first; returns how many items were taken."""
        before = len(self.items)
        for item, score in zip(items, scores, strict=True):
            if len(self.items) == self.k or item < 0:
                break
            if all((self.used[id(quota)][_groups(quota, item)] < quota.most).all() for quota in self.quotas):
                self._add(item, score)
        return len(self.items) - before

    def _add(self, item: int, score: float) -> None:
        self.items.append(item)
        self.scores.append(score)
        for quota in self.quotas:
            self.used[id(quota)][_groups(quota, item)] += 1

    def left(self, items: int, allowed: Tensor | None) -> Tensor:
        """(N,) bool: the allowed items that are not in the list, and in no full group."""
        left = np.ones(items, bool) if allowed is None else allowed.numpy().copy()
        left[self.items] = False
        for quota in self.quotas:
            left &= ~quota.full(self.used[id(quota)])
        return torch.from_numpy(left)


def _groups(quota: Quota, item: int) -> np.ndarray:
    """The item's own groups."""
    row = quota.groups[item]
    return row[row >= 0]
