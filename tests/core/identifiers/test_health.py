"""The figures on the health of identifiers: by hand, or against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.small import few, plain_tokenizer, random_sequences, sequences_of, small_tokenizer
from unigrec.core.identifiers import collisions
from unigrec.core.identifiers import health as health_module
from unigrec.core.identifiers.collisions import hard_codes
from unigrec.core.identifiers.health import (
    code_overlap,
    codebook_usage,
    entropy_bits,
    entropy_given_prefix,
    gini,
    health,
    hit_rate,
    identifier_curve,
)
from unigrec.core.retrieval.cooccurrence import Cooccurring, sample_cooccurring


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


LINE = torch.tensor([[0.0], [1.0], [2.5], [4.5], [10.0]])  # of five items on a line


def cooccurring(neighbours: dict[int, list[int]]) -> Cooccurring:
    """What each of some items co-occurs with; -1 is none."""
    return Cooccurring(np.array(list(neighbours)), np.array(list(neighbours.values())))


def test_hit_rate_by_hand():
    # The two nearest: of item 0, items 1 and 2; of item 3, items 2 and 1; of item 4, items 3 and 2.
    found = cooccurring({0: [1, 3], 3: [2, 1], 4: [0, -1]})
    assert hit_rate(LINE, np.arange(5), found, nearest=2) == pytest.approx((0.5 + 1.0 + 0.0) / 3)
    assert hit_rate(LINE, np.arange(5), found, nearest=3) == pytest.approx((1.0 + 1.0 + 0.0) / 3)
    assert hit_rate(LINE, np.arange(5), found, nearest=4) == hit_rate(LINE, np.arange(5), found, nearest=99) == 1.0


def test_items_of_one_identifier_share_the_places_that_are_left_for_them():
    vectors, groups = torch.tensor([[0.0], [1.0], [9.0]]), np.array([0, 0, 1, 1, 1, 2])
    found = cooccurring({0: [1, 2]})  # one other item of its own group, then three for the places left
    rates = [hit_rate(vectors, groups, found, nearest) for nearest in (1, 2, 3, 4, 5)]
    assert rates == pytest.approx([0.5, 0.5 + 0.5 / 3, 0.5 + 0.5 * 2 / 3, 1.0, 1.0])
    assert hit_rate(vectors, groups, cooccurring({5: [2, 0]}), nearest=1) == pytest.approx((1 / 3 + 0) / 2)


@few
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_where_all_identifiers_are_one_the_hit_rate_is_chance(seed: int, nearest: int):
    generator = np.random.default_rng(seed)
    found = cooccurring(
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
    with pytest.MonkeyPatch.context() as patch:  # in blocks of vectors, smaller and larger than `nearest`
        patch.setattr(health_module, "ITEMS_AT_ONCE", 7)
        assert hit_rate(vectors, np.arange(25), found, nearest) == pytest.approx(np.mean(shares))


def test_health_holds_the_identifiers_hit_rate_against_that_of_the_embeddings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(health_module, "HIT_NEAREST", 1)
    tokenizer = plain_tokenizer(torch.tensor([[[0.0], [4.0]]]))  # items 0 and 1 | items 2 and 3
    embeddings, users = torch.tensor([[0.0], [1.9], [2.1], [4.5]]), ([1, 2, 0, 0], [2, 1, 3, 3])
    found = sample_cooccurring(sequences_of(*users, items=4), 5, 100, 0)
    figures = health(tokenizer, embeddings, np.ones(4), 0.001, found)
    assert figures["hit_rate_items"] == 2  # items 1 and 2: the last two of each user are held out
    assert figures["hit_rate_by_chance"] == pytest.approx(1 / 3)
    assert figures["hit_rate_item_embedding"] == figures["hit_rate_latent"] == 1.0
    assert figures["hit_rate_quantized"] == 0.0
    assert "hit_rate_items" not in health(tokenizer, embeddings, np.ones(4), 0.001)


def test_each_of_several_modalities_has_a_hit_rate_and_the_rest_of_the_vector_has_none(monkeypatch):
    monkeypatch.setattr(health_module, "HIT_NEAREST", 5)
    tokenizer, found = small_tokenizer(), sample_cooccurring(random_sequences(40, 50, 8), 5, 30, 0)
    embeddings = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    figures = health(tokenizer, embeddings, np.ones(50), 0.5, found, widths=[1, 2])
    expected = [hit_rate(part, np.arange(50), found, 5) for part in (embeddings[:, :1], embeddings[:, 1:3])]
    assert figures["hit_rate_modalities"] == expected
    for widths in ([], [6]):
        assert "hit_rate_modalities" not in health(tokenizer, embeddings, np.ones(50), 0.5, found, widths=widths)


def test_figures_by_parts_of_the_catalogue_equal_those_of_the_whole(monkeypatch: pytest.MonkeyPatch):
    tokenizer, embeddings = small_tokenizer(), torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    found = sample_cooccurring(random_sequences(40, 50, 8), 5, 30, 0)

    def figures() -> dict:
        curve = identifier_curve(tokenizer, embeddings, 0.5, np.zeros((50, 3), np.int64))
        return curve | health(tokenizer, embeddings, np.arange(50), 0.5, found)

    monkeypatch.setattr(health_module, "HIT_NEAREST", 5)
    whole, codes = figures(), hard_codes(tokenizer, embeddings)
    error = tokenizer.decode(tokenizer.quantize_hard(tokenizer.encoder(embeddings)).quantized) - embeddings
    assert whole["reconstruction_hard"] == pytest.approx(error.square().mean().item())
    for module in (collisions, health_module):
        monkeypatch.setattr(module, "AT_ONCE", 7 * 3 * 4)  # seven items
    monkeypatch.setattr(health_module, "ITEMS_AT_ONCE", 12)
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


def test_entropy_given_the_prefix_adds_up_to_that_of_the_identifiers():
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 0]])
    assert entropy_given_prefix(codes) == pytest.approx([1.0, 0.5])
    assert entropy_given_prefix(np.array([[0, 5], [1, 6]])) == pytest.approx([1.0, 0.0])  # the prefix tells the code


def test_code_overlap_counts_targets_whose_first_codes_the_history_has():
    codes = np.array([[0, 0], [0, 1], [1, 0], [2, 0]])
    histories, lengths = np.array([[0, 2], [2, 1], [3, 3]]), np.array([2, 1, 2])
    assert code_overlap(codes, histories, lengths, np.array([1, 1, 3])) == pytest.approx([2 / 3, 1 / 3])
