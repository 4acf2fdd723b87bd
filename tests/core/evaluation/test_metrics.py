"""Ranking metrics, baselines, slices and bootstrap: by hand, or against plain loops."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.small import few, random_sequences, sequences_of
from unigrec.core.evaluation import bootstrap
from unigrec.core.evaluation import metrics as evaluation
from unigrec.core.evaluation.bootstrap import paired_bootstrap
from unigrec.core.evaluation.metrics import ndcg, rank_in_list, rank_in_scores, ranking_metrics, recall, seen_before
from unigrec.core.evaluation.slices import slices
from unigrec.core.retrieval.cooccurrence import Cooccurrence, popularity_scores, sample_cooccurring


def test_recall_and_ndcg_by_hand():
    ranks = np.array([1, 2, 3, 10, 11, 0])
    assert recall(ranks, 3).tolist() == [1, 1, 1, 0, 0, 0]
    assert ndcg(ranks, 10) == pytest.approx([1.0, 1 / math.log2(3), 0.5, 1 / math.log2(11), 0.0, 0.0])
    metrics = ranking_metrics(ranks, [2, 10])
    assert metrics["recall_at_2"] == pytest.approx(2 / 6)
    assert metrics["recall_at_10"] == pytest.approx(4 / 6)
    assert metrics["ndcg_at_2"] == pytest.approx((1 + 1 / math.log2(3)) / 6)
    assert list(metrics) == ["recall_at_2", "recall_at_10", "ndcg_at_2", "ndcg_at_10"]


def test_of_equal_scores_the_lower_item_index_comes_first():
    scores = torch.tensor([[0.5, 0.9, 0.5, 0.5]]).expand(4, -1)
    assert rank_in_scores(scores, torch.tensor([0, 1, 2, 3])).tolist() == [2, 1, 3, 4]


def test_masked_ranking_leaves_seen_items_out_and_a_seen_target_gets_rank_zero():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6]]).expand(3, -1)
    seen = torch.tensor([[0, 1, 1], [0, -1, -1], [3, 0, -1]])
    targets = torch.tensor([3, 2, 3])
    assert rank_in_scores(scores, targets).tolist() == [4, 3, 4]
    assert rank_in_scores(scores, targets, seen).tolist() == [2, 2, 0]


@few
@given(st.integers(0, 10_000), st.booleans())
def test_ranks_equal_those_of_a_plain_sort(seed: int, masked: bool):
    generator = np.random.default_rng(seed)
    scores = torch.as_tensor(generator.integers(0, 4, (6, 9))).float()  # many ties
    targets, seen = torch.as_tensor(generator.integers(0, 9, 6)), torch.as_tensor(generator.integers(-1, 9, (6, 5)))
    found = rank_in_scores(scores, targets, seen if masked else None)
    for row in range(6):
        hidden = set(seen[row].tolist()) if masked else set()
        order = sorted(set(range(9)) - hidden, key=lambda item: (-float(scores[row, item]), item))
        target = int(targets[row])
        assert found[row] == (order.index(target) + 1 if target in order else 0)


def test_scores_that_are_not_numbers_never_make_a_target_look_good():
    nan = float("nan")
    scores = torch.tensor([[nan, nan, nan, nan], [nan, 0.5, nan, 0.1]])
    assert (rank_in_scores(scores, torch.tensor([1, 1])) >= torch.tensor([4, 3])).all()


def test_rank_in_list_is_zero_where_the_target_is_absent():
    items = torch.tensor([[4, 2, 7], [1, 3, -1], [-1, -1, -1]])
    assert rank_in_list(items, torch.tensor([7, 0, 5])).tolist() == [3, 0, 0]


def test_seen_before_is_everything_before_the_held_out_item_and_nothing_else():
    sequences = sequences_of([5, 6, 7, 8], [1, 2, 3], items=9)
    assert seen_before(sequences, np.array([0, 1]), "test")[:, :3].tolist() == [[5, 6, 7], [1, 2, -1]]
    validation = seen_before(sequences, np.array([0, 1]), "validation")
    assert [set(row.tolist()) - {-1} for row in validation] == [{5, 6}, {1}]


def test_popularity_counts_training_interactions_only():
    sequences = sequences_of([0, 0, 1, 2, 3], [3, 1], items=5)
    assert popularity_scores(sequences).tolist() == [2.0, 2.0, 0.0, 1.0, 0.0]


def dense_cosine(sequences: evaluation.Sequences) -> np.ndarray:
    """(N, N) cosine of the training incidence, computed densely; zero on the diagonal."""
    incidence = np.zeros((len(sequences.lengths), sequences.catalogue_size))
    for user, (start, end) in enumerate(zip(sequences.offsets, sequences.train_ends, strict=False)):
        incidence[user, sequences.items[start:end]] = 1.0
    norms = np.maximum(np.sqrt(incidence.sum(0)), 1.0)
    cosine = incidence.T @ incidence / norms[:, None] / norms
    np.fill_diagonal(cosine, 0.0)
    return cosine


@pytest.mark.parametrize(("users", "items", "longest"), [(40, 30, 9), (3, 150, 30), (200, 70, 6)])
def test_cooccurrence_equals_a_dense_reference(users: int, items: int, longest: int):
    sequences = random_sequences(users, items, longest)
    histories = sequences.held_out(sequences.evaluation_users(), "test", 4)
    cosine = dense_cosine(sequences)
    expected = [
        sum(cosine[item] for item in history[:length])
        for history, length in zip(histories.items, histories.lengths, strict=True)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = Cooccurrence(sequences).scores(histories)
    np.testing.assert_allclose(scores.numpy(), np.stack(expected), atol=1e-5)


def nearest_by_cosine(cosine: np.ndarray, count: int) -> list[int]:
    """(N,) cosines of an item -> the nearest items; of equal ones the lower index first."""
    return sorted(np.flatnonzero(cosine), key=lambda other: (-cosine[other].round(12), other))[:count]


@pytest.mark.parametrize("at_once", [1, 50, 10_000])
def test_cooccurrence_keeps_the_nearest_neighbours_only(monkeypatch: pytest.MonkeyPatch, at_once: int):
    monkeypatch.setattr(evaluation, "NEIGHBOURS", 3)
    monkeypatch.setattr(evaluation, "MEETINGS_AT_ONCE", at_once)
    sequences = random_sequences(60, 20, 9)._replace(catalogue_size=24)  # the last four without an interaction
    baseline, cosine = Cooccurrence(sequences), dense_cosine(sequences)
    for item in range(24):
        kept = slice(baseline.starts[item], baseline.starts[item + 1])
        assert baseline.neighbours[kept].tolist() == nearest_by_cosine(cosine[item], 3)
        np.testing.assert_allclose(baseline.cosines[kept], cosine[item, baseline.neighbours[kept]], atol=1e-6)


@pytest.mark.parametrize("count", [4, 100])
def test_a_sample_has_the_neighbours_of_a_dense_reference(count: int):
    sequences = random_sequences(60, 90, 9)
    found, cosine = sample_cooccurring(sequences, count, 40, seed=3), dense_cosine(sequences)
    assert len(found.items) == 40
    for item, neighbours in zip(found.items, found.neighbours, strict=True):
        assert neighbours.tolist() == (nearest_by_cosine(cosine[item], count) + [-1] * count)[:count]


def test_a_sample_is_of_items_that_co_occur_in_training():
    sequences = sequences_of([0, 1, 2, 3], [4, 0, 3], [5, 5, 5, 5], [1, 0, 2, 4], items=7)  # pairs 0-1; 5 is alone
    assert sample_cooccurring(sequences, 3, 100, seed=0).items.tolist() == [0, 1]
    assert len(sample_cooccurring(sequences, 3, 1, seed=0).items) == 1
    assert sample_cooccurring(sequences_of([0, 1, 2], items=3), 3, 100, seed=0) is None
    large = random_sequences(60, 90, 9)
    first, again, other = (sample_cooccurring(large, 3, 20, seed).items.tolist() for seed in (1, 1, 2))
    assert first == again == sorted(set(first))
    assert first != other


def test_each_family_of_slices_is_a_partition_of_the_users():
    sequences = random_sequences(80, 25, 16)
    users = sequences.evaluation_users()
    found = slices(sequences, users)
    for family in ("target popularity", "history"):
        masks = np.stack([mask for name, mask in found.items() if name.startswith(family)])
        assert len(masks) == 3
        assert (masks.sum(0) == 1).all()
    unseen, cold = found["cold target: unseen in training"], found["cold target: fewer than 5 training interactions"]
    assert (cold | ~unseen).all()


def test_slices_by_hand():
    sequences = sequences_of([0, 0, 0, 0, 0, 1, 2, 0], [0, 0, 1, 2, 1], [0, 0, 2, 3], items=4)
    found = slices(sequences, np.array([0, 1, 2]))  # training counts: 9, 2, 0, 0; test items: 0, 1, 3
    assert found["cold target: unseen in training"].tolist() == [False, False, True]
    assert found["cold target: fewer than 5 training interactions"].tolist() == [False, True, True]
    assert found["history: up to 5 items"].tolist() == [False, True, True]
    assert found["history: 6 to 10 items"].tolist() == [True, False, False]
    assert found["target popularity: highest third of items"].tolist() == [True, False, False]


def test_bootstrap_of_equals_is_zero_and_says_not_better():
    gains = np.random.default_rng(0).random(50)
    assert paired_bootstrap(gains, gains, 200, seed=0) == {"difference": 0, "low": 0, "high": 0, "p_not_better": 1}


def test_bootstrap_of_a_constant_gain_is_that_gain_without_doubt():
    gains = np.random.default_rng(0).random(50)
    found = paired_bootstrap(gains + 0.25, gains, 200, seed=0)
    assert found == pytest.approx({"difference": 0.25, "low": 0.25, "high": 0.25, "p_not_better": 0.0})


def test_bootstrap_interval_has_the_width_of_the_standard_error_and_depends_on_the_seed_only():
    generator = np.random.default_rng(1)
    reference, gain = generator.normal(size=400), generator.normal(0.1, 1.0, 400)
    found = paired_bootstrap(reference + gain, reference, 2000, seed=3)
    error = gain.std() / 20
    assert found["difference"] == pytest.approx(gain.mean())
    assert found["low"] == pytest.approx(gain.mean() - 1.96 * error, abs=0.15 * error)
    assert found["high"] == pytest.approx(gain.mean() + 1.96 * error, abs=0.15 * error)
    assert found == paired_bootstrap(reference + gain, reference, 2000, seed=3)
    turned = paired_bootstrap(reference, reference + gain, 2000, seed=3)
    assert turned["difference"] == pytest.approx(-found["difference"])
    assert turned["p_not_better"] == pytest.approx(1 - found["p_not_better"], abs=0.03)


@pytest.mark.parametrize("at_once", [1, 40, 10**6])
def test_bootstrap_draws_users_with_replacement_whatever_it_holds_in_memory(monkeypatch: pytest.MonkeyPatch, at_once):
    """Against drawing users one by one: mean, spread and tail of the resampled means."""
    monkeypatch.setattr(evaluation, "DRAWS_AT_ONCE", at_once)
    generator = np.random.default_rng(0)
    values = generator.choice([-1.0, 0.0, 0.0, 0.25, 1.0], 50)
    means = bootstrap.bootstrap_means(values, 4000, seed=1)
    drawn = values[generator.integers(0, 50, (4000, 50))].mean(1)
    assert means.shape == (4000,)
    assert means.mean() == pytest.approx(values.mean(), abs=0.01)
    assert means.std() == pytest.approx(drawn.std(), rel=0.06)
    assert np.quantile(means, 0.05) == pytest.approx(np.quantile(drawn, 0.05), abs=0.02)
