"""The key of a stage's checkpoint: its params and inputs. A checkpoint with another key is not resumed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from unigrec.base.errors import UnigrecError
from unigrec.config.read import read_mapping


def stage_key(stage: str, params: dict[str, Any]) -> str:
    """A hash of the stage's params and of the contents of its dependencies, as `dvc.yaml` lists them.

    params: the whole of params.yaml as plain JSON values.

    Raises:
        UnigrecError: `dvc.yaml` is missing or broken, or has no such stage.
    """
    graph = _stage_definition(stage)
    digest = hashlib.sha256()
    for name in graph["params"]:
        value: Any = params
        for part in name.split("."):
            value = value[part]
        digest.update(json.dumps([name, value], sort_keys=True).encode())
    for dependency in graph["deps"]:
        path = Path(dependency)
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix != ".pyc":
                digest.update(str(file).encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _stage_definition(stage: str) -> dict[str, Any]:
    path = Path("dvc.yaml")
    if not path.is_file():
        raise UnigrecError(f"{path}: no such file; run inside the project's folder, or restore it from git")
    try:
        return read_mapping(path)["stages"][stage]
    except (UnigrecError, TypeError, KeyError) as error:
        raise UnigrecError(f"{path}: no stage {stage!r} can be read from it: {error}; restore it from git") from error
