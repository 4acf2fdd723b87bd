"""k-means, which initialises the codebooks.

Shapes: N points, C dimensions, K centroids.
"""

from __future__ import annotations

import torch
from torch import Tensor


def squared_distances(points: Tensor, codebook: Tensor) -> Tensor:
    """Squared Euclidean distances: (N, C), (K, C) -> (N, K). Rounding never makes one negative."""
    cross = points @ codebook.T
    return (points.square().sum(-1, keepdim=True) - 2 * cross + codebook.square().sum(-1)).clamp_min(0.0)


def kmeans(points: Tensor, clusters: int, seed: int, iterations: int = 25) -> Tensor:
    """Lloyd's algorithm from a k-means++ start: points (N, C) with N >= clusters -> centroids (clusters, C).

    Empty clusters move to the points that are farthest from their nearest centroids.
    """
    assert len(points) >= clusters, "kmeans needs at least as many points as clusters"
    generator = torch.Generator(device="cpu").manual_seed(seed)
    # k-means++: draw each next centroid with probability proportional to the squared distance to the nearest one.
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    nearest = (points - points[chosen[0]]).square().sum(-1)
    for _ in range(1, clusters):
        weights = nearest.double().cpu() + 1e-12
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(-1))
    centroids = points[chosen].clone()
    # Lloyd: assign each point to its nearest centroid, then move each centroid to the mean of its points.
    for _ in range(iterations):
        distances = squared_distances(points, centroids)
        smallest, owner = distances.min(dim=-1)
        counts = torch.bincount(owner, minlength=clusters)
        sums = torch.zeros_like(centroids).index_add_(0, owner, points)
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centroids)
        empty = (counts == 0).nonzero().flatten()
        if len(empty):
            centroids[empty] = points[smallest.topk(len(empty)).indices]
    return centroids
