"""The battery: every kind of bad input, through the command line's stages, with the outcome that docs/faults.md says."""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import broken_files
import broken_rows
import pytest
import typer
from shop import Case
from typer.testing import CliRunner

from unigrec import artifacts as a
from unigrec import cli, launcher, process
from unigrec.configure import configure
from unigrec.errors import EXIT_OK, UnigrecError

PROJECT = Path(__file__).parents[2]
CASES = [*broken_files.CASES, *broken_rows.CASES]
STAGES = ("ingest", "validate", "prepare")


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Runs a stage's command as `unigrec STAGE`, within this process: exit code and all that it said."""

    def run_and_go_on(work) -> None:
        try:
            work()
        except UnigrecError as error:
            launcher.report(error)
            raise typer.Exit(error.exit_code) from error

    def run(name: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli.app, [name])
        if not isinstance(done.exception, SystemExit | None):
            raise done.exception
        return done.exit_code, done.output

    monkeypatch.setattr(launcher, "run_and_end", run_and_go_on)
    monkeypatch.setattr(process, "die_with_parent", lambda: None)
    monkeypatch.chdir(tmp_path)
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    return run


def counted() -> dict[str, Any]:
    """What became of accepted data."""
    stats, source = a.read_json(a.PREPARE_STATS), a.read_json(a.SOURCE)
    return {
        **stats["after"],
        "duplicates": stats["duplicates_removed"],
        "ties": stats["adjacent_tie_share"],
        "longest": stats["length"]["max"],
        "dropped": source["dropped_item_columns"],
    }


@pytest.mark.parametrize("case", CASES, ids=[case.kind for case in CASES])
def test_bad_input(case: Case, stage, tmp_path, caplog):
    if case.kind == "a file that may not be read" and os.geteuid() == 0:
        pytest.skip("nothing is forbidden to root")
    folder = tmp_path / "data"
    folder.mkdir()
    case.breaks(folder)
    configure(Path("params.yaml"), settings=["ingest.source=folder", "ingest.path=data"])
    said, code = "", EXIT_OK
    with caplog.at_level(logging.WARNING):
        for name in STAGES:
            code, words = stage(name)
            said += words
            if code != EXIT_OK:
                break
    said += caplog.text
    assert code == case.exit_code, said
    assert re.search(case.says, said), said
    assert "Traceback" not in said
    if code == EXIT_OK:
        assert {name: counted()[name] for name in case.counts} == case.counts
    else:
        assert not a.PREPARE_STATS.exists()
    assert not [path for path in Path(a.ARTIFACTS).rglob("*.tmp")]


def test_kinds_are_told_apart():
    kinds = [case.kind for case in CASES]
    assert len(set(kinds)) == len(kinds) >= 40
