"""A small project for tests of the flow, with stages that take no time."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import yaml
from dvc.repo import Repo
from flows.stages.processes import run_stage


def make_project(folder: Path, stages: dict) -> None:
    Repo.init(str(folder), no_scm=True).close()
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))


def make_three_stages(folder: Path) -> Path:
    """Make three stages in a row, listed in another order. The last one ends with the status in the file `status`."""
    (folder / "a").write_text("1")
    (folder / "status").write_text("0")
    last = "sh -c 'cp c d; s=$(cat status); test $s != killed || kill -9 $PPID $$; exit $s'"
    stages = {
        "third": {"cmd": last, "deps": ["c", "status"], "outs": ["d"]},
        "second": {"cmd": "cp b c", "deps": ["b"], "outs": ["c"]},
        "first": {"cmd": "echo hello && cp a b", "deps": ["a"], "outs": ["b"]},
    }
    make_project(folder, stages)
    return folder


def reproduce(stages: list[str]) -> list[bool]:
    """Run each stage as the flow does, in a process of DVC; returns whether their commands ran."""
    return [run_stage(stage, lambda line: None) for stage in stages]


def reproduce_here(stages: list[str]) -> None:
    """Run each stage by the DVC of this process, which takes no second to start."""
    with Repo(".") as repo:
        repo.reproduce(stages)


MAKE_MODEL = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.tiny_model import write_artifacts
mode = Path("mode").read_text().strip()
if mode == "slow":
    Path("started").write_text(str(os.getpid()))
    time.sleep(600)
if mode.isdigit():
    sys.exit(int(mode))
write_artifacts(0, mode == "good", None, 0)
"""
STAGE = "python make_model.py || exit $?"  # so that every shell waits for it instead of replacing itself with it
EVERY_STAGE = ["finetune", "joint", "teacher", "tokenizer", "harden", "embed", "prepare", "ingest", "rank", "evaluate"]
EVERY_STAGE += ["gate", "report"]


def versions(folder: Path) -> list[tuple[int, str]]:
    """(version, aliases) of every registered model."""
    with sqlite3.connect(folder / "mlflow.db") as store:
        rows = store.execute("select version from model_versions order by version").fetchall()
        aliases = store.execute("select version, alias from registered_model_aliases order by alias").fetchall()
    return [(version, " ".join(alias for of, alias in aliases if of == version)) for (version,) in rows]
