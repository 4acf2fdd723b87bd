"""Lists under quotas and boosts, against picking from the whole ranking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from support.small import few
from unigrec.core.retrieval.beam import BeamResult
from unigrec.core.retrieval.selection import Quota, Search, boosted, select

N = 14


def search_of(scores: np.ndarray, asked: list[int] | None = None) -> Search:
    """An exact search of scores (B, N); appends how many rows each call asks for."""

    def search(rows: Sequence[int], allowed: Tensor | None, count: int) -> BeamResult:
        if asked is not None:
            asked.append(len(rows))
        found = torch.from_numpy(scores[list(rows)])
        if allowed is not None:
            found = found.masked_fill(~allowed, float("-inf"))
        best = found.sort(dim=1, descending=True, stable=True)
        items = best.indices.masked_fill(best.values == float("-inf"), -1)
        return BeamResult(items[:, :count], best.values[:, :count])

    return search


def picked(scores: np.ndarray, k: int, allowed: np.ndarray, quotas: Sequence[Quota]) -> list[int]:
    """Best first, from the whole ranking (N,)."""
    ranking = [int(item) for item in np.argsort(-scores, kind="stable") if allowed[item]]
    chosen: list[int] = []
    for stage in (quotas, [quota for quota in quotas if not quota.yields]):
        for item in ranking:
            fits = all(
                sum(group in quota.groups[other] for other in chosen) < quota.most
                for quota in stage
                for group in quota.groups[item]
                if group >= 0
            )
            if fits and item not in chosen and len(chosen) < k:
                chosen.append(item)
    return sorted(chosen, key=lambda item: ranking.index(item))


@few
@given(st.integers(0, 10_000))
def test_a_list_under_quotas_is_what_picking_from_the_whole_ranking_gives(seed):
    rng = np.random.default_rng(seed)
    scores, allowed = rng.normal(size=(2, N)), rng.random(N) < 0.8
    k = int(rng.integers(1, N + 1))
    quotas = [
        Quota(rng.integers(-1, 3, (N, 1)), int(rng.integers(1, 4))),
        Quota(np.sort(rng.integers(-1, 5, (N, 2)) * [[1, 7]], 1), int(rng.integers(1, 6))),
        Quota(rng.integers(-1, 1, (N, 1)), int(rng.integers(0, k + 1)), yields=True),
    ][: rng.integers(1, 4)]
    found = select(search_of(scores), 2, k, torch.from_numpy(allowed), quotas)
    for row in range(2):
        expected = picked(scores[row], k, allowed, quotas)
        assert [item for item in found.items[row].tolist() if item >= 0] == expected
        assert found.scores[row, : len(expected)].tolist() == scores[row][expected].tolist()


def test_a_full_group_is_left_out_of_the_next_search():
    """The 9 best items are of one brand; the tenth and the rest have none."""
    groups = np.where(np.arange(N) < 9, 0, -1)[:, None]
    asked: list[int] = []
    search = search_of(-np.arange(N, dtype=float)[None], asked)
    assert select(search, 1, 2, None, [Quota(groups, 1)]).items.tolist() == [[0, 9]]
    assert asked == [1, 1]


@few
@given(st.integers(0, 10_000))
def test_a_boosted_search_is_the_ranking_by_score_plus_weight(seed):
    rng = np.random.default_rng(seed)
    scores, allowed = rng.normal(size=(3, N)), torch.from_numpy(rng.random(N) < 0.7)
    weights = torch.from_numpy(rng.choice([0.0, 0.5, -1.0], N))
    expected = search_of(scores + weights.numpy())([0, 1, 2], allowed, 4)
    found = boosted(search_of(scores), weights, allowed)([0, 1, 2], allowed, 4)
    exists = expected.items >= 0
    width = min(found.items.shape[1], 4)
    assert torch.equal(found.items[:, :width][exists[:, :width]], expected.items[:, :width][exists[:, :width]])
    assert torch.allclose(found.scores[:, :width][exists[:, :width]], expected.scores[:, :width][exists[:, :width]])
