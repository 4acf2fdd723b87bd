"""Hardening: disambiguation, reassignment at least cost, and the health figures by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from support.small import few, plain_tokenizer, random_sequences, sequences_of, small_tokenizer
from unigrec.base.errors import TrainingError
from unigrec.core.identifiers import collisions as identifiers
from unigrec.core.identifiers.churn import churn, churn_against
from unigrec.core.identifiers.collisions import (
    collision_rate,
    disambiguate,
    group_of,
    hard_codes,
    minimum_cost_assignment,
    reassign,
)
from unigrec.core.identifiers.health import codebook_usage, entropy_bits, gini, health, hit_rate, identifier_curve
from unigrec.core.retrieval.cooccurrence import Cooccurring, sample_cooccurring


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


@few
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(0, 5), st.booleans())
def test_minimum_cost_assignment_costs_what_scipys_does(seed: int, rows: int, more: int, whole_numbers: bool):
    generator = np.random.default_rng(seed)
    shape = rows, rows + more
    cost = generator.integers(0, 4, shape).astype(float) if whole_numbers else 1e3 + generator.normal(size=shape)
    chosen = minimum_cost_assignment(cost)
    assert len(set(chosen.tolist())) == rows
    assert cost[np.arange(rows), chosen].sum() == pytest.approx(cost[linear_sum_assignment(cost)].sum(), rel=1e-12)


def test_minimum_cost_assignment_of_one_row_is_its_minimum():
    assert minimum_cost_assignment(np.array([[3.0, 1.0, 2.0]])).tolist() == [1]


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
        least += cost[members][linear_sum_assignment(cost[members])].sum()
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
    distances = identifiers.last_level_distances
    monkeypatch.setattr(identifiers, "AT_ONCE", 30 * 3 * 16)  # thirty items
    monkeypatch.setattr(
        identifiers, "last_level_distances", lambda *given: sizes.append(len(given[1])) or distances(*given)
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


def test_health_figures_by_hand():
    # Soft codewords at a high temperature are the codebook means, 0.5 and 0.25: the last item's soft residual is 0.4.
    tokenizer = plain_tokenizer(torch.tensor([[[0.0], [1.0]], [[0.0], [0.5]]]))
    embeddings = torch.tensor([[0.0], [0.1], [1.0], [0.9]])
    figures = health(tokenizer, embeddings, popularity=np.array([1, 2, 3, 4]), temperature=1e6)
    assert hard_codes(tokenizer, embeddings).tolist() == [[0, 0], [0, 0], [1, 0], [1, 0]]
    assert figures["items"] == 4
    assert figures["collision_rate"] == 1.0
    assert figures["largest_collision"] == 2
    assert figures["codebook_utilisation"] == [1.0, 0.5]
    assert figures["entropy_bits"] == [1.0, 0.0]
    assert figures["gini_of_prefixes"] == [0.0, 0.0]
    assert (
        figures["soft_hard_disagreement"] == 0.5
    )  # soft residuals -0.5, -0.4 | 0.5, 0.4: the latter pick codeword 0.5
    assert figures["reconstruction_hard"] == pytest.approx((0.01 + 0.01) / 4, rel=1e-4)
    assert figures["reconstruction_soft"] == pytest.approx((0.75**2 + 0.65**2 + 0.25**2 + 0.15**2) / 4, rel=1e-4)


def test_health_weighs_collisions_by_popularity():
    tokenizer = plain_tokenizer(torch.tensor([[[0.0], [1.0], [2.0]]]))
    figures = health(tokenizer, torch.tensor([[0.0], [0.1], [2.0]]), np.array([3, 1, 6]), temperature=0.001)
    assert figures["collision_rate"] == pytest.approx(2 / 3)
    assert figures["collision_rate_by_popularity"] == pytest.approx(0.4)
    assert figures["soft_hard_disagreement"] == 0.0
    assert figures["reconstruction_soft"] == pytest.approx(figures["reconstruction_hard"])


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


def test_usage_and_entropy_by_hand():
    usage = codebook_usage(np.array([[0, 1], [0, 1], [2, 1], [3, 1]]), size=4)
    assert usage.tolist() == [[0.5, 0.0, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0]]
    assert entropy_bits(usage).tolist() == [1.5, 0.0]
    assert entropy_bits(np.full(256, 1 / 256)) == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("counts", "expected"), [([5, 5, 5], 0.0), ([0, 0, 0, 8], 0.75), ([1, 3], 0.25), ([3, 1], 0.25), ([4], 0.0)]
)
def test_gini_by_hand(counts: list[int], expected: float):
    assert gini(np.array(counts)) == pytest.approx(expected)


@few
@given(st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any))
def test_gini_is_the_mean_difference_of_pairs_over_twice_the_mean(counts: list[int]):
    values = np.array(counts)
    expected = np.abs(values[:, None] - values).mean() / (2 * values.mean())
    assert gini(values) == pytest.approx(expected, abs=1e-12)


def test_churn_is_the_share_of_changed_codes_per_level():
    before, after = np.array([[0, 1], [2, 3], [4, 5], [6, 7]]), np.array([[0, 1], [2, 0], [4, 0], [0, 7]])
    assert churn(before, after) == [0.25, 0.5]
    assert churn(before, before) == [0.0, 0.0]


LINE = torch.tensor([[0.0], [1.0], [2.5], [4.5], [10.0]])  # of five items on a line


def together(neighbours: dict[int, list[int]]) -> Cooccurring:
    """What each of some items co-occurs with; -1 is none."""
    return Cooccurring(np.array(list(neighbours)), np.array(list(neighbours.values())))


def test_hit_rate_by_hand():
    # The two nearest: of item 0, items 1 and 2; of item 3, items 2 and 1; of item 4, items 3 and 2.
    found = together({0: [1, 3], 3: [2, 1], 4: [0, -1]})
    assert hit_rate(LINE, np.arange(5), found, nearest=2) == pytest.approx((0.5 + 1.0 + 0.0) / 3)
    assert hit_rate(LINE, np.arange(5), found, nearest=3) == pytest.approx((1.0 + 1.0 + 0.0) / 3)
    assert hit_rate(LINE, np.arange(5), found, nearest=4) == hit_rate(LINE, np.arange(5), found, nearest=99) == 1.0


def test_items_of_one_identifier_share_the_places_that_are_left_for_them():
    vectors, groups = torch.tensor([[0.0], [1.0], [9.0]]), np.array([0, 0, 1, 1, 1, 2])
    found = together({0: [1, 2]})  # one other item of its own group, then three for the places left
    rates = [hit_rate(vectors, groups, found, nearest) for nearest in (1, 2, 3, 4, 5)]
    assert rates == pytest.approx([0.5, 0.5 + 0.5 / 3, 0.5 + 0.5 * 2 / 3, 1.0, 1.0])
    assert hit_rate(vectors, groups, together({5: [2, 0]}), nearest=1) == pytest.approx((1 / 3 + 0) / 2)


@few
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_where_all_identifiers_are_one_the_hit_rate_is_chance(seed: int, nearest: int):
    generator = np.random.default_rng(seed)
    found = together(
        {int(item): [(int(item) + 1 + step) % 30 for step in range(3)] for item in generator.choice(30, 4)}
    )
    rate = hit_rate(torch.ones(1, 2), np.zeros(30, np.int64), found, nearest)
    assert rate == pytest.approx(min(nearest / 29, 1.0))


@few
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_hit_rate_of_distinct_vectors_equals_a_plain_loop(seed: int, nearest: int):
    sequences = random_sequences(30, 25, 6, seed)
    found = sample_cooccurring(sequences, 4, 15, seed)
    vectors = torch.randn(25, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shares = []
    for item, neighbours in zip(found.items, found.neighbours, strict=True):
        distance = (vectors - vectors[item]).square().sum(1)
        distance[item] = torch.inf
        close = set(distance.argsort()[:nearest].tolist())
        wanted = neighbours[neighbours >= 0].tolist()
        shares.append(len(close & set(wanted)) / len(wanted))
    assert hit_rate(vectors, np.arange(25), found, nearest) == pytest.approx(np.mean(shares))


def test_health_holds_the_identifiers_hit_rate_against_that_of_the_embeddings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(identifiers, "HIT_NEAREST", 1)
    tokenizer = plain_tokenizer(torch.tensor([[[0.0], [4.0]]]))  # items 0 and 1 | items 2 and 3
    embeddings, users = torch.tensor([[0.0], [1.9], [2.1], [4.5]]), ([1, 2, 0, 0], [2, 1, 3, 3])
    found = sample_cooccurring(sequences_of(*users, items=4), 5, 100, 0)
    figures = health(tokenizer, embeddings, np.ones(4), 0.001, found)
    assert figures["hit_rate_items"] == 2  # items 1 and 2: the last two of each user are held out
    assert figures["hit_rate_by_chance"] == pytest.approx(1 / 3)
    assert figures["hit_rate_item_embedding"] == figures["hit_rate_latent"] == 1.0
    assert figures["hit_rate_quantized"] == 0.0
    assert "hit_rate_items" not in health(tokenizer, embeddings, np.ones(4), 0.001)


def test_figures_by_parts_of_the_catalogue_equal_those_of_the_whole(monkeypatch: pytest.MonkeyPatch):
    tokenizer, embeddings = small_tokenizer(), torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    found = sample_cooccurring(random_sequences(40, 50, 8), 5, 30, 0)

    def figures() -> dict:
        curve = identifier_curve(tokenizer, embeddings, 0.5, np.zeros((50, 3), np.int64))
        return curve | health(tokenizer, embeddings, np.arange(50), 0.5, found)

    monkeypatch.setattr(identifiers, "HIT_NEAREST", 5)
    whole, codes = figures(), hard_codes(tokenizer, embeddings)
    error = tokenizer.decode(tokenizer.quantize_hard(tokenizer.encoder(embeddings)).quantized) - embeddings
    assert whole["reconstruction_hard"] == pytest.approx(error.square().mean().item())
    monkeypatch.setattr(identifiers, "AT_ONCE", 7 * 3 * 4)  # seven items
    seen, encode = [], tokenizer.encoder.forward
    monkeypatch.setattr(tokenizer.encoder, "forward", lambda chunk: seen.append(len(chunk)) or encode(chunk))
    parts = figures()
    assert set(parts) == set(whole)
    assert all(parts[name] == pytest.approx(value, rel=1e-5) for name, value in whole.items())
    assert np.array_equal(hard_codes(tokenizer, embeddings), codes)
    assert max(seen) == 7


def test_the_curve_by_hand():
    # As in health_figures_by_hand, and one more item alone at the far end of both levels.
    tokenizer = plain_tokenizer(torch.tensor([[[0.0], [1.0]], [[0.0], [0.5]]]))
    embeddings = torch.tensor([[0.0], [0.1], [1.0], [1.5]])
    first = np.array([[1, 1], [0, 1], [1, 0], [1, 1]])  # today: 00, 00, 10, 11
    figures = identifier_curve(tokenizer, embeddings, 1e-6, first)
    assert figures == {
        "collision_rate": 0.5,
        "soft_hard_disagreement": 0.0,
        "entropy_level_1": 1.0,
        "entropy_level_2": pytest.approx(0.8112781),
        "churn_level_1": 0.25,
        "churn_level_2": 0.5,
        "changed_at_most_one_level": 0.75,
    }
    assert identifier_curve(tokenizer, embeddings, 1e6)["soft_hard_disagreement"] == 0.25
    assert not [name for name in identifier_curve(tokenizer, embeddings, 1e6) if "ch" in name]


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


def test_churn_against_an_earlier_catalogue():
    earlier = np.array([[1, 2], [3, 4], [-1, -1], [5, 6]])
    now = np.array([[1, 2], [3, 9], [0, 0], [7, 8]])
    found = churn_against(earlier, now)
    assert found == (3, pytest.approx(2 / 3), pytest.approx([1 / 3, 2 / 3]))
    assert churn_against(earlier, np.column_stack([now, now[:, 0]])) == (3, 1.0, None)
    assert churn_against(np.full((2, 2), -1), now[:2]) == (0, None, None)
