"""A small catalogue with identifiers, a recommender for it, and embedded histories."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from support.small import padded, small_recommender
from unigrec.core.identifiers.collisions import disambiguate
from unigrec.core.models.recommender import Recommender

USERS, WIDTH = 3, 6


def catalogue(items: int, seed: int, levels: int = 2) -> np.ndarray:
    """(N, levels + 1) identifiers. Many of them collide before disambiguation."""
    return disambiguate(np.random.default_rng(seed).integers(0, 4, (items, levels)), np.zeros(items)).codes


def recommender_of(codes: np.ndarray, seed: int = 0, **changes: Any) -> Recommender:
    size = int(codes[:, -1].max()) + 1
    return small_recommender(codes.shape[1] - 1, 4, disambiguation=size, seed=seed, **changes)


def histories(seed: int = 0) -> tuple[Tensor, Tensor]:
    source = torch.randn(USERS, WIDTH, 12, generator=torch.Generator().manual_seed(seed))
    return source, padded([6, 4, 2], WIDTH)
