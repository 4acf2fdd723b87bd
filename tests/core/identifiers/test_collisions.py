"""Hardening: disambiguation, and reassignment at minimum cost."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from support.small import few, plain_tokenizer, small_tokenizer
from unigrec.base.errors import TrainingError
from unigrec.core.identifiers import collisions
from unigrec.core.identifiers.collisions import (
    collision_rate,
    disambiguate,
    group_of,
    hard_codes,
    reassign,
)


def test_disambiguation_counts_colliding_items_the_most_popular_first():
    codes = np.array([[1, 2], [0, 0], [1, 2], [1, 2], [0, 0], [3, 3]])
    resolved = disambiguate(codes, popularity=np.array([5, 1, 9, 5, 4, 0]))
    assert resolved.codes.tolist() == [[1, 2, 1], [0, 0, 1], [1, 2, 0], [1, 2, 2], [0, 0, 0], [3, 3, 0]]
    assert resolved.disambiguation == 3  # the largest group; of equally popular items the first comes first


def test_disambiguation_without_collisions_needs_a_range_of_one():
    resolved = disambiguate(np.array([[0, 1], [1, 0]]), np.zeros(2))
    assert resolved.codes[:, -1].tolist() == [0, 0]
    assert resolved.disambiguation == 1


@few
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_disambiguation_makes_identifiers_distinct_and_keeps_their_codes(seed: int, items: int):
    generator = np.random.default_rng(seed)
    codes, popularity = generator.integers(0, 3, (items, 2)), generator.integers(0, 5, items)
    resolved = disambiguate(codes, popularity)
    assert np.array_equal(resolved.codes[:, :2], codes)
    assert len(np.unique(resolved.codes, axis=0)) == items
    groups = np.unique(codes, axis=0, return_counts=True)[1]
    assert resolved.disambiguation == groups.max() == resolved.codes[:, -1].max() + 1
    for code in np.unique(codes, axis=0):
        members = np.flatnonzero((codes == code).all(1))
        ordered = popularity[members[np.argsort(resolved.codes[members, -1])]]
        assert (np.diff(ordered) <= 0).all()


def minimum_cost(cost: np.ndarray) -> float:
    """Total cost of the best assignment of rows to columns of their own, as a linear program."""
    rows, columns = cost.shape
    each_row, each_column = np.kron(np.eye(rows), np.ones(columns)), np.kron(np.ones(rows), np.eye(columns))
    found = linprog(cost.ravel(), A_ub=each_column, b_ub=np.ones(columns), A_eq=each_row, b_eq=np.ones(rows))
    return found.fun


@few
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(0, 2))
def test_the_linear_program_finds_what_trying_all_assignments_finds(seed: int, rows: int, more: int):
    cost = np.random.default_rng(seed).normal(size=(rows, rows + more))
    tried = (cost[np.arange(rows), list(chosen)].sum() for chosen in permutations(range(rows + more), rows))
    assert minimum_cost(cost) == pytest.approx(min(tried), abs=1e-6)


def crowded(seed: int, items: int = 40):
    """Items of which many collide: latents in one dimension of two tight blobs."""
    tokenizer = plain_tokenizer(torch.tensor([[[-5.0], [5.0], [50.0]], [[-0.2], [0.0], [0.3]]]).repeat(1, 10, 1))
    generator = torch.Generator().manual_seed(seed)
    side = torch.randint(0, 2, (items, 1), generator=generator) * 10 - 5.0
    return tokenizer, side + 0.2 * torch.randn(items, 1, generator=generator)


@few
@given(st.integers(0, 10_000))
def test_reassignment_is_distinct_keeps_prefixes_and_costs_the_least_possible(seed: int):
    tokenizer, embeddings = crowded(seed)
    codes = hard_codes(tokenizer, embeddings)
    assert collision_rate(codes) > 0.5
    resolved = reassign(tokenizer, embeddings, codes)
    assert np.array_equal(resolved.codes[:, :-1], codes[:, :-1])
    assert len(np.unique(resolved.codes, axis=0)) == len(codes)
    assert resolved.disambiguation == 0
    least = nearest = 0.0
    residual = (embeddings - tokenizer.codebooks[0][codes[:, 0]]).detach()
    cost = torch.cdist(residual, tokenizer.codebooks[1].detach()).square().double().numpy()
    for prefix in np.unique(codes[:, 0]):
        members = np.flatnonzero(codes[:, 0] == prefix)
        least += minimum_cost(cost[members])
        nearest += cost[members].min(1).sum()
    found = cost[np.arange(len(codes)), resolved.codes[:, 1]].sum()
    assert found == pytest.approx(least, rel=1e-4, abs=1e-4)
    assert resolved.extra_distance == pytest.approx((least - nearest) / len(codes), rel=1e-3, abs=1e-5)


def test_reassignment_by_parts_of_the_catalogue_equals_that_of_the_whole(monkeypatch: pytest.MonkeyPatch):
    tokenizer = small_tokenizer(codebook_size=16)
    embeddings = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    tokenizer.initialise(embeddings, seed=0)
    codes = hard_codes(tokenizer, embeddings) // [2, 2, 4]  # crowded, so that many collide
    whole = reassign(tokenizer, embeddings, codes)
    sizes: list[int] = []
    distances = collisions.last_level_distances
    monkeypatch.setattr(collisions, "AT_ONCE", 30 * 3 * 16)  # thirty items
    monkeypatch.setattr(
        collisions, "last_level_distances", lambda *given: sizes.append(len(given[1])) or distances(*given)
    )
    parts = reassign(tokenizer, embeddings, codes)
    assert len(sizes) > 1
    assert max(sizes) <= 30 + 16
    assert np.array_equal(parts.codes, whole.codes)
    assert parts.extra_distance == pytest.approx(whole.extra_distance)


def test_reassignment_touches_only_prefixes_with_a_collision():
    tokenizer = plain_tokenizer(torch.tensor([[[0.0], [10.0]], [[0.0], [1.0]]]))
    embeddings = torch.tensor([[0.1], [0.2], [10.1], [10.9]])
    codes = hard_codes(tokenizer, embeddings)
    assert codes.tolist() == [[0, 0], [0, 0], [1, 0], [1, 1]]
    resolved = reassign(tokenizer, embeddings, codes)
    assert resolved.codes.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert resolved.extra_distance == pytest.approx((0.8**2 - 0.2**2) / 4, rel=1e-5)


def test_reassignment_of_a_single_level_has_one_prefix_for_all():
    tokenizer = plain_tokenizer(torch.tensor([[[0.0], [1.0], [2.0]]]))
    embeddings = torch.tensor([[0.0], [0.1], [0.2]])
    assert reassign(tokenizer, embeddings, hard_codes(tokenizer, embeddings)).codes.tolist() == [[0], [1], [2]]


def test_reassignment_of_more_items_than_codewords_is_an_error_that_says_what_to_do():
    tokenizer = plain_tokenizer(torch.tensor([[[0.0], [10.0]], [[0.0], [1.0]]]))
    embeddings = torch.tensor([[0.1], [0.2], [0.3]])
    with pytest.raises(TrainingError, match=r"3 items share the first 1 codes.*2 codewords.*codebook_size"):
        reassign(tokenizer, embeddings, hard_codes(tokenizer, embeddings))


def test_hard_codes_are_those_of_hard_residuals():
    tokenizer, embeddings = small_tokenizer(), torch.randn(20, 6)
    assert np.array_equal(
        hard_codes(tokenizer, embeddings), tokenizer.quantize_hard(tokenizer.encoder(embeddings)).codes.numpy()
    )


@few
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(0, 9))
def test_groups_number_the_distinct_rows_in_their_order(seed: int, items: int, levels: int):
    codes = np.random.default_rng(seed).integers(0, 3, (items, levels))
    rows = sorted({tuple(row) for row in codes.tolist()})
    assert group_of(codes).tolist() == [rows.index(tuple(row)) for row in codes.tolist()]


def test_groups_of_more_codes_than_a_number_holds():
    codes = np.random.default_rng(0).integers(0, 2**20, (50, 6))
    assert group_of(np.r_[codes, codes]).tolist() == 2 * group_of(codes).tolist()
    assert len(set(group_of(codes).tolist())) == 50


def test_collision_rate_counts_every_item_that_shares_all_its_codes():
    assert collision_rate(np.array([[0, 1], [0, 1], [0, 1], [1, 0]])) == 0.75
    assert collision_rate(np.array([[0, 1], [1, 1]])) == 0.0


def test_reassignment_keeps_earlier_identifiers_where_the_prefix_is_todays():
    codebooks = torch.tensor([[[0.0], [100.0]], [[0.0], [1.0]]])
    tokenizer = plain_tokenizer(codebooks)
    embeddings = torch.tensor([[0.1], [0.2], [100.0], [101.0]])
    codes = hard_codes(tokenizer, embeddings)
    assert codes.tolist() == [[0, 0], [0, 0], [1, 0], [1, 1]]
    assert reassign(tokenizer, embeddings, codes).codes.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    earlier = np.array([[0, 1], [-1, -1], [1, 1], [1, 0]])  # of the last two, today's codes collide with nobody's
    assert reassign(tokenizer, embeddings, codes, earlier).codes.tolist() == [[0, 1], [0, 0], [1, 0], [1, 1]]
    elsewhere = np.array([[1, 1], [-1, -1], [-1, -1], [-1, -1]])
    assert reassign(tokenizer, embeddings, codes, elsewhere).codes.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_of_a_single_level_an_item_without_an_earlier_identifier_gets_the_nearest_free_one():
    tokenizer = plain_tokenizer(torch.tensor([[[0.0], [1.0], [2.0], [50.0]]]))
    embeddings = torch.tensor([[0.0], [0.1], [0.2]])
    codes, earlier = hard_codes(tokenizer, embeddings), np.array([[1], [-1], [-1]])
    assert reassign(tokenizer, embeddings, codes, earlier).codes.tolist() == [[1], [0], [2]]
