"""What the joint phase trains on in a benchmark: data of the shape of Amazon Beauty, generated or real, and a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import quality_ladder
from benchmarks.quality_steps import load_data
from benchmarks.speed.harness import ROOT
from unigrec.config import Params, parse_params
from unigrec.data.batches import Sequences
from unigrec.identifiers import hard_codes
from unigrec.models.unified import UnifiedModel
from unigrec.profiles import with_values
from unigrec.training.joint import JointData, new_unified, resolve
from unigrec.training.tokenizer import new_tokenizer

USERS, ITEMS, WIDTH = 22_363, 12_101, 384  # Beauty's, and what its texts' encoder gives
SHORTEST, LOG_MEDIAN, LOG_SPREAD, LONGEST = 5, 0.4, 1.47, 204  # interactions of a user: half have 5 or 6, the mean is 9
TEACHER_WIDTH = 64


def profile_params(profile: str, **joint: Any) -> Params:
    """A profile as it ships, with other values of the joint phase's recommender: causal=True."""
    changes = {f"joint.recommender.{key}": value for key, value in joint.items()}
    return parse_params(with_values(quality_ladder.profile_params(ROOT, profile), changes))


def generated_sequences(users: int, items: int, seed: int) -> Sequences:
    """Lengths and popularity as in Beauty; which item follows which means nothing."""
    generator = np.random.default_rng(seed)
    more = np.exp(generator.normal(LOG_MEDIAN, LOG_SPREAD, users)).astype(np.int64)
    lengths = np.minimum(SHORTEST + more, LONGEST)
    popularity = (np.arange(items) + 50.0) ** -0.8
    drawn = generator.choice(items, lengths.sum(), p=popularity / popularity.sum())
    return Sequences(drawn, np.r_[0, lengths.cumsum()], items)


def joint_data(artifacts: Path | None, quick: bool, seed: int = 0) -> JointData:
    """Sequences and item embeddings of a project's `prepare` and `embed`, or generated ones; a random teacher."""
    torch.manual_seed(seed)
    if artifacts is None:
        users, items, width = (60, 300, 16) if quick else (USERS, ITEMS, WIDTH)
        sequences, embeddings = generated_sequences(users, items, seed), torch.randn(items, width)
    else:
        sequences, embeddings, _ = load_data(artifacts)
    return JointData(sequences, embeddings, torch.randn(len(embeddings), TEACHER_WIDTH))


def untrained(data: JointData, params: Params) -> tuple[UnifiedModel, Tensor]:
    """A model of the profile's size with codewords drawn from latents, and the items' codes (N, T)."""
    torch.manual_seed(params.seed)
    tokenizer = new_tokenizer(data.embeddings.shape[1], params.tokenizer)
    tokenizer.initialise(data.embeddings, params.seed, iterations=1)
    popularity = data.sequences.train_counts()
    resolved = resolve(tokenizer, data.embeddings, popularity, "disambiguate").codes
    model = new_unified(tokenizer, hard_codes(tokenizer, data.embeddings), params.joint, TEACHER_WIDTH, "disambiguate")
    model.fit_teacher_projection(data.embeddings, data.teacher)
    return model, torch.as_tensor(resolved)
