"""The benchmark of ranks, at tiny sizes: all its trainings end well, and every rank says its memory."""

from __future__ import annotations

import pytest

from benchmarks import ranks
from support.tiny_training import write_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_teacher_is_trained_in_three_ways(tmp_path, capfd):
    write_project(tmp_path)
    ranks.teacher(tmp_path / "artifacts", processes=2, epochs=1)
    lines = [line for line in capfd.readouterr().out.splitlines() if "exit codes" in line]
    assert [line.split(", wall")[0] for line in lines] == [
        "one process: exit codes [0]",
        "ranks that share each batch: exit codes [0]",
        "a process per member: exit codes [0, 0]",
    ]


def test_every_rank_says_its_memory_at_a_zero_stage(capfd):
    ranks.zero(2, parameters=3, processes=2)
    lines = sorted(line for line in capfd.readouterr().out.splitlines() if line.startswith("stage"))
    assert [line.split(": peak")[0] for line in lines] == ["stage 2, rank 0", "stage 2, rank 1"]
