"""Tests of the part start: a command is stopped after its first step, and a failed command is an error."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from benchmarks.speed.harness import run_command
from benchmarks.speed.start import FIRST_STEP, UNTIL_FIRST_STEP, row_of

from support.tiny_training import write_project
from unigrec.base.paths import Artifacts


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "engine"), [("teacher", "torch"), ("joint", "deepspeed"), ("joint", "torch")])
def test_a_stage_is_stopped_after_its_first_step(tmp_path: Path, stage: str, engine: str):
    write_project(tmp_path, {"joint": {"engine": engine}})
    before = sorted(tmp_path.rglob("*"))
    usage = run_command([sys.executable, "-c", UNTIL_FIRST_STEP, "stage", stage], folder=tmp_path, quiet=True)
    assert usage.code == FIRST_STEP
    assert sorted(tmp_path.rglob("*")) == before  # no epoch was finished, so nothing was saved


@pytest.mark.slow
def test_a_stage_that_fails_before_its_first_step_keeps_its_exit_code(tmp_path: Path):
    write_project(tmp_path)
    (tmp_path / Artifacts().embeddings).unlink()
    command = [sys.executable, "-c", UNTIL_FIRST_STEP, "stage", "teacher"]
    assert run_command(command, folder=tmp_path, quiet=True).code == 2


def test_a_command_that_ends_otherwise_is_no_figure(tmp_path: Path):
    with pytest.raises(RuntimeError, match="ended with code 3, expected 0"):
        row_of("three", [sys.executable, "-S", "-c", "raise SystemExit(3)"], tmp_path, rounds=1)


def test_a_row_holds_the_median_and_the_target(tmp_path: Path):
    row = row_of("nothing", [sys.executable, "-S", "-c", "pass"], tmp_path, rounds=3, target=0.5)
    assert row["target s"] == 0.5
    assert row["min"] <= row["CPU s"] <= row["max"]
