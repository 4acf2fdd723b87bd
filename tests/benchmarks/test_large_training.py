"""The benchmark of the trainings on a large log: its inputs, its bounded trainings and its measure of memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import large_training
from support.tiny_training import tiny_embeddings, tiny_params, tiny_run, tiny_sequences
from unigrec.base import files
from unigrec.base.paths import Artifacts
from unigrec.core.training import loop
from unigrec.core.training.teacher import train_teacher
from unigrec.pipeline import outputs


def test_the_inputs_are_of_the_given_size_with_long_tails(tmp_path, monkeypatch):
    monkeypatch.setattr(large_training, "ROWS_AT_ONCE", 16 * 64)
    large_training.write_inputs(str(tmp_path), items=300, users=100, interactions=3000, width=8)
    artifacts = Artifacts(tmp_path)
    sequences = outputs.load_sequences(artifacts)
    assert (len(sequences.items), len(sequences.lengths), sequences.catalogue_size) == (3000, 100, 300)
    assert sequences.items.dtype == np.int32
    assert sequences.lengths.min() >= large_training.LEAST
    assert sequences.lengths.max() > 4 * np.median(sequences.lengths)
    counts = sequences.train_counts()
    assert counts[:30].sum() > 3 * counts[-30:].sum()
    times = files.read_arrays(artifacts.sequences)["timestamps"]
    assert (np.diff(times[: large_training.LEAST]) > 0).all()  # of the first user
    vectors = outputs.load_embeddings(artifacts)
    assert vectors.shape == (300, 8)
    assert float(vectors.std(0).min()) > 0.5
    assert not (tmp_path / "scratch").exists()


def test_a_training_has_one_epoch_of_so_many_steps_and_its_parts_are_timed(monkeypatch, capsys):
    times = large_training.Times()
    monkeypatch.setattr(loop, "_Training", large_training.bounded(loop._Training, 2, times))
    run = tiny_run()._replace(tick=times.tick)
    trained = train_teacher(tiny_sequences(), tiny_embeddings(), tiny_params().teacher, run)
    assert [(row["epoch"], row["step"]) for row in trained.history] == [(1, 2)]
    assert "validation_ndcg_at_10" in trained.history[0]
    row = times.row()
    assert row["steps per epoch"] == 3
    assert row["epoch h"] == pytest.approx(3 * row["step ms"] / 1000 / 3600)
    assert {"set-up s", "validation s"} <= set(row)
    assert "validation done; VmHWM" in capsys.readouterr().err


def test_a_process_that_takes_more_memory_than_allowed_ends_itself_and_says_so():
    program = "from benchmarks.large_training import Memory; Memory(0.001).start(); import time; time.sleep(20)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.strip()) == (3, "more than 0.0 GiB of memory")
