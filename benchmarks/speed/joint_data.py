"""Data and model for the joint phase in a benchmark: generated data of the shape of Amazon Beauty, or real data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.quality import ladder as quality_ladder
from benchmarks.speed.harness import ROOT
from benchmarks.speed.shapes import learning_data
from unigrec.config.profiles import with_values
from unigrec.config.read import parse_params
from unigrec.config.schema import Params
from unigrec.core.identifiers.collisions import hard_codes
from unigrec.core.models.unified import UnifiedModel
from unigrec.core.training.joint import JointData, new_unified, resolve
from unigrec.core.training.tokenizer import new_tokenizer

WIDTH, QUICK_WIDTH = 384, 16  # of item embeddings; 384 as from the offline text encoder
TEACHER_WIDTH = 64


def profile_params(profile: str, **joint: Any) -> Params:
    """The committed profile, with changed values of the joint phase's recommender, such as causal=True."""
    changes = {f"joint.recommender.{key}": value for key, value in joint.items()}
    return parse_params(with_values(quality_ladder.profile_params(ROOT, profile), changes))


def joint_data(artifacts: str | None, quick: bool) -> JointData:
    """Sequences and item embeddings from a project's `prepare` and `embed`, or generated ones; a random teacher."""
    data = learning_data(artifacts, QUICK_WIDTH if quick else WIDTH, quick)
    torch.manual_seed(0)
    return JointData(data.sequences, data.embeddings, torch.randn(len(data.embeddings), TEACHER_WIDTH))


def untrained(data: JointData, params: Params) -> tuple[UnifiedModel, Tensor]:
    """A model of the profile's size with codewords drawn from latents, and the codes of the items (N, T)."""
    torch.manual_seed(params.seed)
    tokenizer = new_tokenizer(data.embeddings.shape[1], params.tokenizer)
    tokenizer.initialise(data.embeddings, params.seed, iterations=1)
    popularity = data.sequences.train_counts()
    resolved = resolve(tokenizer, data.embeddings, popularity, "disambiguate").codes
    model = new_unified(tokenizer, hard_codes(tokenizer, data.embeddings), params.joint, TEACHER_WIDTH, "disambiguate")
    model.fit_teacher_projection(data.embeddings, data.teacher)
    return model, torch.as_tensor(resolved)
