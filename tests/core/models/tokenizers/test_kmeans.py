"""k-means and the distances that it uses."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from unigrec.core.models.tokenizers import kmeans as module
from unigrec.core.models.tokenizers.kmeans import kmeans, lloyd, mini_batches, nearest, squared_distances


def test_squared_distances_equal_the_direct_ones_and_are_never_negative():
    points, codebook = torch.randn(7, 5), torch.randn(4, 5)
    torch.testing.assert_close(squared_distances(points, codebook), torch.cdist(points, codebook).square())
    far = 1000 + torch.randn(50, 5)
    assert squared_distances(far, far).min() >= 0


def distortion(points: Tensor, centroids: Tensor) -> float:
    return float(torch.cdist(points, centroids).min(1).values.square().sum())


def test_kmeans_finds_the_means_of_separated_blobs():
    torch.manual_seed(0)
    corners = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    blobs = corners[:, None] + 0.1 * torch.randn(3, 20, 2)
    centroids = kmeans(blobs.flatten(0, 1), 3, seed=0)
    nearest = torch.cdist(corners, centroids).argmin(1)
    assert sorted(nearest.tolist()) == [0, 1, 2]
    torch.testing.assert_close(centroids[nearest], blobs.mean(1))


def test_kmeans_fills_empty_clusters_with_the_farthest_points(monkeypatch: pytest.MonkeyPatch):
    # A start in which every centroid is the same point leaves all clusters but one empty.
    monkeypatch.setattr(torch, "multinomial", lambda weights, count, generator: torch.zeros(1, dtype=torch.long))
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.zeros(1, dtype=torch.long))
    places = torch.tensor([[0.0], [5.0], [11.0], [30.0]])
    points = places.repeat(6, 1)  # many duplicates
    centroids = kmeans(points, 4, seed=0)
    assert sorted(centroids.flatten().tolist()) == [0.0, 5.0, 11.0, 30.0]


def test_kmeans_with_fewer_distinct_points_than_clusters_stays_finite_and_covers_them():
    points = torch.tensor([[1.0, 1.0], [2.0, 2.0]]).repeat(4, 1)
    centroids = kmeans(points, 5, seed=0)
    assert torch.isfinite(centroids).all()
    assert distortion(points, centroids) == 0.0


def test_kmeans_never_gets_worse_with_more_iterations_and_depends_on_the_seed_only():
    torch.manual_seed(0)
    points = torch.randn(200, 3)
    errors = [distortion(points, kmeans(points, 8, seed=3, iterations=n)) for n in (0, 1, 2, 5, 25)]
    assert all(after <= before + 1e-4 for before, after in pairwise(errors))
    assert torch.equal(kmeans(points, 8, seed=3), kmeans(points, 8, seed=3))
    assert not torch.equal(kmeans(points, 8, seed=3), kmeans(points, 8, seed=4))


def test_the_nearest_codeword_is_found_in_blocks(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    points, codebook = torch.randn(50, 3), torch.randn(7, 3)
    monkeypatch.setattr(module, "DISTANCES_AT_ONCE", 7 * 8)
    distances, numbers = nearest(points, codebook)
    expected = torch.cdist(points, codebook).square().min(1)
    torch.testing.assert_close(distances, expected.values)
    assert torch.equal(numbers, expected.indices)


def test_more_points_than_fit_are_read_in_mini_batches_and_few_are_not(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    points = torch.randn(3000, 3)
    monkeypatch.setattr(module, "BATCH", 100)
    monkeypatch.setattr(module, "ALL_POINTS", 3000)
    assert torch.equal(kmeans(points, 8, seed=3), lloyd(points, 8, seed=3, iterations=25))
    monkeypatch.setattr(module, "ALL_POINTS", 2999)
    found = kmeans(points, 8, seed=3)
    assert torch.equal(found, mini_batches(points, 8, seed=3, batches=25, size=8 * module.POINTS_PER_CENTROID))
    assert torch.equal(found, kmeans(points, 8, seed=3))


def test_mini_batches_come_near_to_all_points_and_nearer_than_one_batch():
    torch.manual_seed(0)
    points = torch.randn(4000, 4)
    whole, found, start = (
        distortion(points, centroids)
        for centroids in (
            lloyd(points, 16, seed=1, iterations=25),
            mini_batches(points, 16, seed=1, batches=25, size=400),
            mini_batches(points, 16, seed=1, batches=0, size=400),
        )
    )
    assert found < 1.05 * whole
    assert found < 0.97 * start
