"""Inputs of the ladder's command, so small that a rung takes a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.tiny_training import TINY, merged, write_project
from unigrec.config.profiles import leaves


def tiny_artifacts(folder: Path) -> Path:
    """Write the outputs of `prepare` and `embed`."""
    write_project(folder)
    return folder / "artifacts"


def tiny_arguments(artifacts: Path, out: Path, *more: str, **changes: Any) -> list[str]:
    """Arguments of the ladder's command: one seed, sizes as in `TINY` with `changes`, and `more`."""
    values = merged({name: value for name, value in TINY.items() if name != "seed"}, changes)
    settings = [f"{key}={json.dumps(value)}" for key, value in leaves(values)]
    common = ["--artifacts", str(artifacts), "--out", str(out), "--profile", "sample", "--seeds", "1"]
    return [*common, *more, "--set", *settings]


def results(out: Path) -> dict[str, bytes]:
    """Content of every file in `out` except times and locks, by its path below `out`."""
    unstable = {"done.json", "clock.json", "lock", "table.json", "table.md"}
    return {
        str(file.relative_to(out)): file.read_bytes()
        for file in sorted(out.rglob("*"))
        if file.is_file() and file.name not in unstable
    }
