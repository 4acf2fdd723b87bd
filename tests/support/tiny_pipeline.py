"""The whole pipeline with tiny networks on the shop's data, in this process, for faults in and between stages."""

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
from support.project import ROOT
from support.tiny_training import tiny_values
from unigrec.base import files
from unigrec.base.paths import Artifacts
from unigrec.config.read import load_params
from unigrec.config.schema import Params
from unigrec.pipeline import running

DATA_STAGES = ("ingest", "validate", "prepare", "embed")
MODEL_STAGES = ("teacher", "tokenizer", "joint", "harden", "finetune", "rank", "evaluate", "gate", "report")
OUTPUTS = {"validate": [Artifacts().validation, Artifacts().validated]}  # other stages: their folder


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in the folder. Restores torch at the end, because training stages turn on deterministic algorithms."""
    before, deterministic = Path.cwd(), torch.are_deterministic_algorithms_enabled()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        torch.use_deterministic_algorithms(deterministic)


def write_shop(folder: Path, changes: dict[str, Any] | None = None) -> None:
    """Write a project's folder in which only the stage `warm_start` has run, without a bundle to start from.

    changes: changes to params.yaml, section by section.
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
        running.run_stage(name, params())


def outputs(stage: str) -> dict[Path, bytes]:
    """Content of the files that a stage writes with the same bytes each time: all except the dated pages."""
    places = OUTPUTS.get(stage, [Artifacts().folder(stage)])
    found = [file for path in places for file in (path.rglob("*") if path.is_dir() else [path])]
    return {file: file.read_bytes() for file in found if file.is_file()}
