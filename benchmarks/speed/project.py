"""A project's folder for measurements through the command line: the command, and a copy of the files it reads."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from benchmarks.speed.harness import ROOT, run_command

UNIGREC = [sys.executable, "-m", "unigrec.cli"]


def make_project(folder: Path, *configure: str) -> None:
    """Copy params, graph, profiles and source into the folder and run `unigrec configure` with the arguments.

    Raises:
        RuntimeError: the command failed. Its error message is on standard error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    for name in ("infra", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    must([*UNIGREC, "configure", *configure], folder)


def must(command: list[str], folder: Path) -> None:
    """Run a command without measuring it. Raises RuntimeError if it fails."""
    usage = run_command(command, folder=folder, PATH=path_of_tools())
    if usage.code:
        raise RuntimeError(f"{' '.join(command)} ended with code {usage.code}; its output is above")


def path_of_tools() -> str:
    """PATH with the commands of this environment first, because DVC runs stages as `unigrec`."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
