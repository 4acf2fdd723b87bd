"""Tests of the harness of the speed benchmark: ratios, fresh processes, tables."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from benchmarks.speed.harness import Table, Timing, in_child, ratio, run_command
from benchmarks.speed.report import markdown, page, save_part


def test_a_ratio_is_of_medians_and_tells_the_range_of_rounds():
    slow, fast = Timing(cpu=[4.0, 6.0, 50.0]), Timing(cpu=[2.0, 1.0, 5.0])
    assert ratio(slow, fast) == (3.0, 2.0, 10.0)


def test_cells_are_per_piece_of_work_and_in_their_unit():
    timing = Timing(cpu=[2.0, 1.0, 4.0], wall=[3.0, 3.0, 3.0])
    assert timing.cells(per=10) == {"CPU ms": 200.0, "min": 100.0, "max": 400.0, "wall ms": 300.0}


def test_the_peak_of_a_command_is_its_own():
    small = run_command([sys.executable, "-S", "-c", "pass"])
    large = run_command([sys.executable, "-S", "-c", "x = b'1' * 200_000_000"])
    assert small.code == large.code == 0
    assert small.peak < 50_000_000
    assert 200_000_000 < large.peak < 250_000_000
    assert run_command([sys.executable, "-c", "raise SystemExit(3)"]).code == 3


def threads_of_torch(factor: int) -> int:
    import torch

    return torch.get_num_threads() * factor


def test_a_function_in_a_child_gets_its_arguments_and_threads():
    result, usage = in_child(threads_of_torch, threads=2, factor=5)
    assert result == 10
    assert usage.peak > 50_000_000


def broken() -> None:
    raise ValueError("broken")


def test_a_failing_child_is_an_error():
    with pytest.raises(RuntimeError, match="broken"):
        in_child(broken)


def test_a_page_holds_every_part_that_was_measured(tmp_path: Path):
    save_part(tmp_path, "one", [Table("first", [{"what": "ours", "ms": 1234.5}], ["a note"])], 2.0, "command one")
    save_part(tmp_path, "two", [Table("second", [{"what": "ours"}])], 1.0, "command two")
    text = page(tmp_path, ["one", "missing", "two"])
    assert (tmp_path / "speed.md").read_text() == text
    for piece in ("## one", "command one", "| ours | 1,234 |", "- a note", "### second"):
        assert piece in text


def test_a_column_that_a_row_lacks_stays_empty():
    table = Table("", [{"what": "a", "ratio": 4.321}, {"what": "b", "items": 10_000}])
    assert markdown(table.to_dict()).splitlines() == [
        "| what | ratio | items |",
        "| --- | --- | --- |",
        "| a | 4.32 |  |",
        "| b |  | 10,000 |",
    ]
