"""The whole pipeline on the shop's data with tiny networks, within this process, for faults in and between stages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from support import shop
from support.tiny_training import ROOT, tiny_values
from unigrec.base import files
from unigrec.base.paths import Artifacts
from unigrec.config.schema import Params, load_params
from unigrec.pipeline import stages

DATA_STAGES = ("ingest", "validate", "prepare", "embed")
MODEL_STAGES = ("teacher", "tokenizer", "joint", "harden", "finetune", "evaluate", "gate")
OUTPUTS = {"validate": [Artifacts().validation, Artifacts().validated]}  # of the others: their folder


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in the folder, and leave torch as it was: the training stages ask for deterministic algorithms."""
    before, deterministic = Path.cwd(), torch.are_deterministic_algorithms_enabled()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        torch.use_deterministic_algorithms(deterministic)


def write_shop(folder: Path, changes: dict[str, Any] | None = None) -> None:
    """A project's folder in which nothing has run but the stage `warm_start`, which has nothing to hand on.

    changes: of params.yaml, section by section.
    """
    (folder / "data").mkdir(parents=True)
    shop.write(folder / "data")
    shop_values = {"ingest": {"source": "folder", "path": "data"}, "embed": {"dimensions": 8}}
    values = tiny_values(shop_values | (changes or {}))
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    files.write_json(folder / Artifacts().warm_start / "bundle.json", {"bundle": None})
    (folder / "infra").mkdir()
    shutil.copy(ROOT / "infra/cold_start.yaml", folder / "infra")
    (folder / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text(encoding="utf-8"), encoding="utf-8")


def params() -> Params:
    return load_params(Path("params.yaml"))


def run(*names: str) -> None:
    for name in names:
        stages.run_stage(name, params())


def outputs(stage: str) -> dict[Path, bytes]:
    """What a stage has written and writes alike each time: all but the pages with their dates."""
    places = OUTPUTS.get(stage, [Artifacts().folder(stage)])
    found = [file for path in places for file in (path.rglob("*") if path.is_dir() else [path])]
    return {file: file.read_bytes() for file in found if file.is_file()}
