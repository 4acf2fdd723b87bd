"""A catalogue, histories and params so small that a phase trains in a second, in memory or as project files."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import yaml

from support.project import PARAMS_FILE, ROOT
from unigrec.base import files, paths
from unigrec.base.paths import Artifacts
from unigrec.config.read import parse_params
from unigrec.config.schema import Params
from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.core.sequences import Sequences
from unigrec.core.training.joint import JointData
from unigrec.core.training.loop import Run
from unigrec.core.training.teacher import new_teacher, teacher_config
from unigrec.core.training.tokenizer import new_tokenizer

ITEMS, USERS, WIDTH = 24, 40, 8
CPU = torch.device("cpu")
TINY = {
    "seed": 7,
    "teacher": {
        "filter_components": 2,
        "d_model": 8,
        "history": 6,
        "batch_size": 16,
        "epochs": 4,
        "validate_every": 1,
        "dropout": 0.2,
    },
    "tokenizer": {
        "levels": 2,
        "codebook_size": 4,
        "code_dim": 4,
        "hidden": [16],
        "batch_size": 10,
        "epochs": 4,
        "collaborative_weight": 0.0,
    },
    "joint": {
        "engine": "torch",
        "recommender": {"d_model": 16, "d_ff": 32, "heads": 2, "d_kv": 8, "encoder_layers": 1, "decoder_layers": 1},
        "history": 5,
        "epochs": 3,
        "batch_size": 32,
        "recommender_lr": 0.004,
        "distillation_warmup_epochs": 1,
        "uniformity_weight": 0.01,
        "tokenizer_lr": 0.0001,
        "patience": 100,
        "validation_users": 10,
    },
    "harden": {"resolution": "disambiguate"},  # four codewords per level are too few to tell the items apart
    "finetune": {"epochs": 2, "batch_size": 32, "patience": 100},
    "rank": {"validation_users": 30},
    "evaluate": {"bootstrap_resamples": 2000},
}


def tiny_run(seed: int = 7) -> Run:
    """A run on the CPU that logs nothing and saves no checkpoint."""
    return Run(seed, CPU, lambda step, metrics: None)


def merged(old: dict, new: dict) -> dict:
    """`new` over `old`, section by section."""
    return old | {key: merged(old[key], value) if isinstance(value, dict) else value for key, value in new.items()}


def tiny_values(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The committed params.yaml with `TINY` and `changes` in place, section by section."""
    committed = yaml.safe_load(PARAMS_FILE.read_text(encoding="utf-8"))
    return merged(merged(copy.deepcopy(committed), TINY), changes or {})


def tiny_params(**changes: Any) -> Params:
    return parse_params(tiny_values(changes))


def tiny_sequences() -> Sequences:
    """Users with 4 to 8 items each. The next item is the next index, so there is something to learn."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(4, 9, USERS)
    starts = np.repeat(generator.integers(0, ITEMS, USERS), lengths)
    steps = np.concatenate([np.arange(length) for length in lengths])
    return Sequences((starts + steps) % ITEMS, np.r_[0, lengths.cumsum()], ITEMS)


def tiny_embeddings() -> torch.Tensor:
    return torch.randn(ITEMS, WIDTH, generator=torch.Generator().manual_seed(1))


def tiny_tokenizer() -> Tokenizer:
    """K-means codebooks on an untrained encoder."""
    torch.manual_seed(2)
    tokenizer = new_tokenizer(WIDTH, tiny_params().tokenizer)
    tokenizer.initialise(tiny_embeddings(), 2)
    return tokenizer


def tiny_data() -> JointData:
    teacher = torch.randn(ITEMS, 8, generator=torch.Generator().manual_seed(3))
    return JointData(tiny_sequences(), tiny_embeddings(), teacher)


def write_project(folder: Path, changes: dict[str, Any] | None = None) -> Params:
    """Write the inputs of the training stages: params.yaml, dvc.yaml and the outputs of the stages before them."""
    values = tiny_values(changes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    shutil.copy(ROOT / "dvc.yaml", folder)
    params, sequences = parse_params(values), tiny_sequences()
    arrays = {"items": sequences.items.astype(np.int32), "offsets": sequences.offsets}
    arrays["timestamps"] = np.arange(len(sequences.items))
    files.write_tensors(folder / Artifacts().sequences, arrays)
    ids = [f"i{item}" for item in range(ITEMS)]
    files.write_table(
        folder / Artifacts().catalogue, pa.table({"item_index": pa.array(range(ITEMS), pa.int32()), "item_id": ids})
    )
    files.write_json(folder / Artifacts().warm_start / "bundle.json", {"bundle": None})
    files.write_tensors(folder / Artifacts().embeddings, {"embedding": tiny_embeddings()})
    torch.manual_seed(4)
    files.write_tensors(
        folder / Artifacts().teacher / paths.MODEL_FILE, new_teacher(ITEMS, params.teacher).state_dict()
    )
    config = teacher_config(ITEMS, params.teacher)
    files.write_json(folder / Artifacts().teacher / paths.MODEL_CONFIG_FILE, config)
    shape = params.tokenizer.model_dump(include={"code_dim", "hidden", "levels", "codebook_size"})
    files.write_tensors(folder / Artifacts().tokenizer / paths.MODEL_FILE, tiny_tokenizer().state_dict())
    files.write_json(folder / Artifacts().tokenizer / paths.MODEL_CONFIG_FILE, {"embedding_dim": WIDTH, **shape})
    files.write_tensors(folder / Artifacts().tokenizer / paths.COLLABORATIVE_FILE, {"part": torch.zeros(ITEMS, 0)})
    return params
