"""k-means, which initialises the codebooks.

Shapes: N points, C dimensions, K centroids.
"""

from __future__ import annotations

import torch
from torch import Tensor

DISTANCES_AT_ONCE = 2**26  # numbers in one block of distances
ALL_POINTS = 2**18  # above, mini-batches: 1,024 points per centroid with 256 of them
BATCH, POINTS_PER_CENTROID = 2**16, 64  # points of a mini-batch; more if there are many centroids
START_ITERATIONS = 10  # of Lloyd's algorithm on the first mini-batch


def squared_distances(points: Tensor, codebook: Tensor) -> Tensor:
    """Squared Euclidean distances: (N, C), (K, C) -> (N, K). Rounding never makes one negative."""
    cross = points @ codebook.T
    return (points.square().sum(-1, keepdim=True) - 2 * cross + codebook.square().sum(-1)).clamp_min(0.0)


def nearest(points: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance to the nearest codeword, and its number: (N, C), (K, C) -> (N,), (N,). In blocks of points."""
    blocks = points.split(max(DISTANCES_AT_ONCE // len(codebook), 1))
    found = [squared_distances(block, codebook).min(dim=-1) for block in blocks]
    return torch.cat([block.values for block in found]), torch.cat([block.indices for block in found])


def kmeans(points: Tensor, clusters: int, seed: int, iterations: int = 25) -> Tensor:
    """Centroids (clusters, C) of points (N, C) with N >= clusters.

    Up to `ALL_POINTS`, by Lloyd's algorithm; of more points, by as many mini-batches as there are iterations.
    """
    assert len(points) >= clusters, "kmeans needs at least as many points as clusters"
    batch = max(BATCH, POINTS_PER_CENTROID * clusters)
    if len(points) <= max(ALL_POINTS, 4 * batch):
        return lloyd(points, clusters, seed, iterations)
    return mini_batches(points, clusters, seed, iterations, batch)


def mini_batches(points: Tensor, clusters: int, seed: int, batches: int, size: int) -> Tensor:
    """Mini-batch k-means (Sculley, WWW 2010), from Lloyd's algorithm on one batch: as `kmeans`.

    Each centroid becomes the mean of its points of all batches. Time and memory do not depend on N.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)

    def drawn() -> Tensor:
        return points[torch.randint(len(points), (size,), generator=generator).to(points.device)]

    centroids = lloyd(drawn(), clusters, seed, START_ITERATIONS)
    totals = centroids.new_zeros(clusters, 1)
    for _ in range(batches):
        batch = drawn()
        owner = nearest(batch, centroids)[1]
        counts = torch.bincount(owner, minlength=clusters)[:, None]
        sums = torch.zeros_like(centroids).index_add_(0, owner, batch)
        totals += counts
        centroids = centroids + (sums - counts * centroids) / totals.clamp_min(1)
    return centroids


def lloyd(points: Tensor, clusters: int, seed: int, iterations: int) -> Tensor:
    """Lloyd's algorithm from a k-means++ start: as `kmeans`.

    Empty clusters move to the points that are farthest from their nearest centroids.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    # k-means++: draw each next centroid with probability proportional to the squared distance to the nearest one.
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    closest = (points - points[chosen[0]]).square().sum(-1)
    for _ in range(1, clusters):
        weights = closest.double().cpu() + 1e-12
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
        closest = torch.minimum(closest, (points - points[chosen[-1]]).square().sum(-1))
    centroids = points[chosen].clone()
    # Lloyd: assign each point to its nearest centroid, then move each centroid to the mean of its points.
    for _ in range(iterations):
        smallest, owner = nearest(points, centroids)
        counts = torch.bincount(owner, minlength=clusters)
        sums = torch.zeros_like(centroids).index_add_(0, owner, points)
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centroids)
        empty = (counts == 0).nonzero().flatten()
        if len(empty):
            centroids[empty] = points[smallest.topk(len(empty)).indices]
    return centroids
