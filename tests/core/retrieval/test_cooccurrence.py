"""Popularity and co-occurrence: by hand, or against a dense reference."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from support.small import random_sequences, sequences_of
from unigrec.core.retrieval import cooccurrence
from unigrec.core.retrieval.cooccurrence import (
    Cooccurrence,
    count_successors,
    kept_neighbours,
    popularity_scores,
    sample_cooccurring,
)
from unigrec.core.sequences import Sequences


def test_popularity_counts_training_interactions_only():
    sequences = sequences_of([0, 0, 1, 2, 3], [3, 1], items=5)
    assert popularity_scores(sequences).tolist() == [2.0, 2.0, 0.0, 1.0, 0.0]


def dense_cosine(sequences: Sequences) -> np.ndarray:
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
    np.testing.assert_allclose(scores.toarray(), np.stack(expected), atol=1e-5)


def nearest_by_cosine(cosine: np.ndarray, count: int) -> list[int]:
    """(N,) cosines of an item -> the nearest items; of equal ones the lower index first."""
    return sorted(np.flatnonzero(cosine), key=lambda other: (-cosine[other].round(12), other))[:count]


@pytest.mark.parametrize("at_once", [1, 50, 10_000])
def test_cooccurrence_keeps_the_nearest_neighbours_only(monkeypatch: pytest.MonkeyPatch, at_once: int):
    monkeypatch.setattr(cooccurrence, "NEIGHBOURS", 3)
    monkeypatch.setattr(cooccurrence, "PAIRS_AT_ONCE", at_once)
    sequences = random_sequences(60, 20, 9)._replace(catalogue_size=24)  # the last four without an interaction
    baseline, cosine = Cooccurrence(sequences), dense_cosine(sequences)
    for item in range(24):
        kept = slice(*baseline.nearest.indptr[item : item + 2])
        neighbours = baseline.nearest.indices[kept]
        assert neighbours.tolist() == nearest_by_cosine(cosine[item], 3)
        np.testing.assert_allclose(baseline.nearest.data[kept], cosine[item, neighbours], atol=1e-6)


def test_a_large_catalogue_keeps_fewer_neighbours_per_item_but_at_least_one(monkeypatch: pytest.MonkeyPatch):
    assert [kept_neighbours(items) for items in (1, 1_000_000, 10_000_000, 10**9)] == [200, 200, 26, 1]
    monkeypatch.setattr(cooccurrence, "PAIRS_KEPT", 2 * 20)
    sequences = random_sequences(60, 20, 9)
    for counted in (Cooccurrence(sequences).nearest, count_successors(sequences)):
        assert np.diff(counted.indptr).max() == 2


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
