"""Tests of the command of the speed benchmark: which parts run, what they write, and how a failed part is reported."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmarks.speed.harness import Options, Table

from benchmarks.speed import __main__ as front_door
from unigrec.base.errors import UnigrecError


def part(monkeypatch: pytest.MonkeyPatch, name: str, run) -> None:
    """Register a part of that name that calls `run`."""
    monkeypatch.setitem(front_door.PARTS, name, f"what {name} costs")
    monkeypatch.setitem(sys.modules, f"benchmarks.speed.{name}", SimpleNamespace(run=run))


def figures(options: Options) -> list[Table]:
    return [Table("a title", [{"what": "ours", "quick": options.quick}], ["a note"])]


def test_a_part_leaves_json_a_page_and_its_table(tmp_path: Path, monkeypatch, capsys):
    part(monkeypatch, "good", figures)
    assert front_door.main(["good", "--quick", "--out", str(tmp_path)]) == 0
    kept = json.loads((tmp_path / "good.json").read_text())
    assert kept["tables"][0]["rows"] == [{"what": "ours", "quick": True}]
    assert kept["command"] == f"python -m benchmarks.speed good --quick --out {tmp_path}"
    assert "## good" in (tmp_path / "speed.md").read_text()
    assert "| ours | True |" in capsys.readouterr().out


@pytest.mark.parametrize("error", [ValueError("broken inside"), UnigrecError("broken inside")])
def test_a_part_that_fails_is_told_and_the_others_go_on(tmp_path: Path, monkeypatch, capsys, error: Exception):
    def fail(options: Options) -> list[Table]:
        raise error

    part(monkeypatch, "bad", fail)
    part(monkeypatch, "good", figures)
    assert front_door.main(["bad", "good", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "broken inside" in said
    assert "not measured: bad;" in said
    assert not (tmp_path / "bad.json").exists()
    assert (tmp_path / "good.json").exists()


def test_the_page_keeps_the_parts_measured_before(tmp_path: Path, monkeypatch):
    for name in ("first", "second"):
        part(monkeypatch, name, figures)
        front_door.main([name, "--out", str(tmp_path)])
    text = (tmp_path / "speed.md").read_text()
    assert "## first" in text
    assert "## second" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["trainning"], "there is no part trainning"), (["data", "--artifacts", "nowhere"], "nowhere: no such folder")],
)
def test_what_cannot_be_measured_is_refused_at_once(arguments: list[str], said: str, capsys):
    with pytest.raises(SystemExit) as refused:
        front_door.main(arguments)
    assert refused.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.timeout(1800)  # many processes, whole pipelines
@pytest.mark.parametrize("name", ["tokenizer", "teacher", "data", "start"])
def test_a_quick_run_of_a_part_ends_well(tmp_path: Path, name: str):
    assert front_door.main([name, "--quick", "--out", str(tmp_path)]) == 0
    (table,) = json.loads((tmp_path / f"{name}.json").read_text())["tables"]
    assert len(table["rows"]) > 3
    assert {"CPU s", "wall s"} <= set(table["columns"])
