"""Faults of clock and numbers: a clock that goes backwards and NaN, between stages and during training."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import pytest
import torch

from support.tiny_pipeline import inside, outputs, run, write_shop
from support.tiny_training import write_project
from unigrec.base import files, paths
from unigrec.base.errors import BusyError, InvalidDataError, TrainingError, UnigrecError
from unigrec.base.lock import exclusive
from unigrec.base.paths import Artifacts
from unigrec.commands import bundles
from unigrec.core.training.engine import TorchEngine
from unigrec.core.training.loop import Moment
from unigrec.pipeline import running
from unigrec.pipeline.outputs import load_embeddings
from unigrec.pipeline.progress import Lines, TrainingProgress

HOUR = 3600.0


def go_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, each reading of the wall clock of this process is an hour earlier."""
    asked = iter(range(10**9))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - HOUR * next(asked))


def test_a_clock_that_goes_backwards_between_the_stages_changes_nothing(tmp_path, monkeypatch):
    write_shop(tmp_path / "shop")
    with inside(tmp_path / "shop"):
        run("ingest", "prepare")
        steady = outputs("ingest") | outputs("prepare")
        now = time.time()
        for late, stage in enumerate(("ingest", "validate", "prepare")):
            monkeypatch.setattr(time, "time", lambda late=late: now - HOUR * late)
            run(stage)
        assert outputs("ingest") | outputs("prepare") == steady


def test_a_clock_of_1970_is_named_among_the_reasons(tmp_path, monkeypatch):
    write_shop(tmp_path / "shop")
    with inside(tmp_path / "shop"):
        run("ingest")
        monkeypatch.setattr(time, "time", lambda: 0.0)
        with pytest.raises(InvalidDataError, match=r"at most a day ahead of the clock; broken by 600 of 600 rows"):
            run("validate")


def test_a_clock_that_goes_backwards_within_a_training_changes_no_bit(tmp_path, monkeypatch):
    found = []
    for name in ("steady", "backwards"):
        params = write_project(tmp_path / name)
        with inside(tmp_path / name):
            if name == "backwards":
                go_backwards(monkeypatch)
            running.run_stage("tokenizer", params)
            found.append(outputs("tokenizer"))
    assert found[0] == found[1]


def test_progress_counts_seconds_that_no_clock_takes_back(monkeypatch, capsys):
    go_backwards(monkeypatch)
    progress = TrainingProgress("toy", 3, Lines(), every=0.0)
    for epoch in (1, 2, 3):
        for batch in (1, 2):
            progress.tick(Moment(0, epoch, 3, batch, 2, best=float("-inf")))
        progress.log(epoch, {"epoch": epoch, "step": epoch, "loss": 1.0})
    expected = [f"toy: epoch {epoch}/3  loss 1.0000  left 0:00" for epoch in (1, 2, 3)]
    assert capsys.readouterr().err.splitlines() == expected


def test_a_lock_of_tomorrow_locks_nothing_and_today_s_still_does(tmp_path, monkeypatch):
    go_backwards(monkeypatch)
    path = tmp_path / "run.lock"
    path.write_text("99999")
    tomorrow = time.time() + 48 * HOUR
    os.utime(path, (tomorrow, tomorrow))
    with exclusive(path), pytest.raises(BusyError, match=str(os.getpid())), exclusive(path):
        pass


@pytest.mark.parametrize("stage", ["teacher", "tokenizer"])
def test_a_nan_stops_the_training_with_step_and_loss_and_nothing_is_registered(tmp_path, monkeypatch, stage):
    params = write_project(tmp_path)
    with inside(tmp_path):
        for file in (Artifacts().folder(stage)).iterdir():
            file.unlink()
        steps, step = [], TorchEngine.step

        def poisoned(engine: TorchEngine, loss: torch.Tensor) -> None:
            step(engine, loss)
            steps.append(float(loss.detach()))
            if len(steps) == 3:
                next(engine.model.parameters()).data.view(-1)[0] = math.nan

        monkeypatch.setattr(TorchEngine, "step", poisoned)
        with pytest.raises(TrainingError, match=rf"{stage}: the loss is not finite at epoch \d, step 3: .*loss nan"):
            running.run_stage(stage, params)
        assert not (Artifacts().folder(stage) / paths.MODEL_FILE).exists()
        with pytest.raises(UnigrecError, match=r"no such file; run the pipeline first"):
            bundles.register(params, Path("params.yaml"), None)
        assert not Path("mlflow.db").exists()
        assert not list(paths.BUNDLES.glob("*"))


def test_an_embedding_with_a_nan_stops_the_teacher_before_its_first_step(tmp_path):
    params = write_project(tmp_path)
    with inside(tmp_path):
        embedding = load_embeddings(Artifacts())
        embedding[3, 2] = math.nan
        files.write_tensors(Artifacts().embeddings, {"embedding": embedding})
        with pytest.raises(TrainingError, match="teacher: the loss is not finite at epoch 1, step 0: loss nan"):
            running.run_stage("teacher", params)
