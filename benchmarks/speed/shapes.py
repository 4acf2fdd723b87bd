"""Inputs of the benchmarks: params of a profile, and data of the published size (Beauty) unless artifacts are given."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality.ladder import profile_params
from benchmarks.quality.steps import load_data
from benchmarks.speed.harness import ROOT
from unigrec.config.read import parse_params
from unigrec.config.schema import Params
from unigrec.core.sequences import Sequences

USERS, ITEMS = 22_363, 12_101  # Beauty 2014, 5-core
QUICK_USERS, QUICK_ITEMS = 400, 320
LEAST, LONGEST = 5, 204  # interactions per user


class LearningData(NamedTuple):
    sequences: Sequences
    embeddings: Tensor  # (N, D), unit variance


def params_of(profile: str) -> Params:
    """The committed params with the values of a profile."""
    return parse_params(profile_params(ROOT, profile), profile)


def learning_data(artifacts: str | None, width: int, quick: bool = False) -> LearningData:
    """Data from a project's artifacts folder, or else generated, with embeddings of the given width."""
    if artifacts:
        data = load_data(Path(artifacts))
        return LearningData(data.sequences, data.embeddings)
    users, items = (QUICK_USERS, QUICK_ITEMS) if quick else (USERS, ITEMS)
    return LearningData(generated_sequences(users, items), generated_embeddings(items, width))


def generated_sequences(users: int, items: int, seed: int = 0) -> Sequences:
    """Sequences with lengths as in Beauty: 5 to 204, mean about 9, median 6. Item popularity has a long tail."""
    generator = np.random.default_rng(seed)
    extra = np.floor(generator.lognormal(0.63, 1.3, users)).astype(np.int64)
    lengths = np.minimum(LEAST + extra, LONGEST)
    weight = 1.0 / (np.arange(items) + 10.0) ** 0.8
    chosen = generator.choice(items, int(lengths.sum()), p=weight / weight.sum())
    return Sequences(chosen, np.r_[0, np.cumsum(lengths)], items)


def generated_embeddings(items: int, width: int, seed: int = 0) -> Tensor:
    """(N, D) points around centres, like items of one kind."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(max(items // 40, 2), width, generator=generator)
    kind = torch.randint(len(centres), (items,), generator=generator)
    points = centres[kind] + 0.7 * torch.randn(items, width, generator=generator)
    return (points - points.mean(0)) / points.std(0)
