"""The key of a stage's checkpoint: its params and inputs. A checkpoint with another key is not resumed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.config.read import read_mapping


def stage_key(stage: str, params: dict[str, Any]) -> str:
    """A hash of the stage's params and of the contents of its dependencies, as `dvc.yaml` lists them.

    params: the whole of params.yaml as plain JSON values.

    Raises:
        UnigrecError: `dvc.yaml` is missing or broken, or has no such stage.
    """
    return hashlib.sha256(json.dumps(_listed_inputs(stage, params)).encode()).hexdigest()[:16]


def stage_inputs(stage: str, params: dict[str, Any]) -> dict[str, str]:
    """What must be equal on all hosts that run a stage together: its inputs as hashes, and what computes, by name.

    Arguments and errors as for `stage_key`.
    """
    import platform

    import torch

    versions = {
        "the version of Python": platform.python_version(),
        "the version of torch": str(torch.__version__),
        "the processor's instruction set": torch.backends.cpu.get_cpu_capability(),
    }
    return {**_listed_inputs(stage, params), **versions}


def _listed_inputs(stage: str, params: dict[str, Any]) -> dict[str, str]:
    """A hash per param and per dependency of the stage."""
    graph = _stage_definition(stage)
    inputs = {}
    for name in graph["params"]:
        value: Any = params
        for part in name.split("."):
            value = value[part]
        inputs[f"params {name}"] = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    for dependency in graph["deps"]:
        path, digest = Path(dependency), hashlib.sha256()
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix != ".pyc":
                digest.update(str(file).encode() + bytes.fromhex(files.sha256(file)))
        inputs[dependency] = digest.hexdigest()
    return inputs


def _stage_definition(stage: str) -> dict[str, Any]:
    path = Path("dvc.yaml")
    if not path.is_file():
        raise UnigrecError(f"{path}: no such file; run inside the project's folder, or restore it from git")
    try:
        return read_mapping(path)["stages"][stage]
    except (UnigrecError, TypeError, KeyError) as error:
        raise UnigrecError(f"{path}: no stage {stage!r} can be read from it: {error}; restore it from git") from error
