"""Every kind of bad input, through the command line, with the outcome that docs/faults.md names."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from support import broken_files, broken_rows
from support.project import PARAMS_FILE, ROOT
from support.shop import Case
from unigrec import cli
from unigrec.base import files, launcher, process
from unigrec.base.errors import EXIT_OK, UnigrecError
from unigrec.base.paths import Artifacts
from unigrec.config.edit import configure

CASES = [*broken_files.CASES, *broken_rows.CASES]
ACCEPTED = [case for case in CASES if case.exit_code == EXIT_OK]
STAGES = ("ingest", "validate", "prepare")


@pytest.fixture(scope="module")
def params_file(tmp_path_factory) -> Path:
    """Params that read the folder `data`."""
    file = Path(shutil.copy(PARAMS_FILE, tmp_path_factory.mktemp("params")))
    configure(file, settings=["ingest.source=folder", "ingest.path=data"])
    return file


@pytest.fixture
def stage(tmp_path, monkeypatch, params_file):
    """A function that runs the command of a stage in this process; returns its exit code and its output."""

    def run_and_go_on(work) -> None:
        try:
            work()
        except UnigrecError as error:
            launcher.report(error)
            raise typer.Exit(error.exit_code) from error

    def run(name: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli.app, ["stage", name])
        if not isinstance(done.exception, SystemExit | None):
            raise done.exception
        return done.exit_code, done.output

    monkeypatch.setattr(launcher, "run_and_end", run_and_go_on)
    monkeypatch.setattr(process, "die_with_parent", lambda: None)
    monkeypatch.chdir(tmp_path)
    shutil.copy(params_file, tmp_path)
    return run


def counted() -> dict[str, Any]:
    """Counts of accepted data."""
    stats, source = files.read_json(Artifacts().prepare_stats), files.read_json(Artifacts().source)
    return {
        **stats["after"],
        "duplicates": stats["duplicates_removed"],
        "ties": stats["adjacent_tie_share"],
        "longest": stats["length"]["max"],
        "dropped": source["dropped_item_columns"],
    }


def run(case: Case, stage, folder: Path, stages: Sequence[str]) -> tuple[int, str]:
    """Run stages until one fails; returns its exit code, or 0, and the output of all."""
    folder.mkdir()
    case.breaks(folder)
    said = ""
    for name in stages:
        code, words = stage(name)
        said += words
        if code != EXIT_OK:
            return code, said
    return EXIT_OK, said


@pytest.mark.parametrize("case", CASES, ids=[case.kind for case in CASES])
def test_bad_input(case: Case, stage, tmp_path):
    if case.kind == "a file that may not be read" and os.geteuid() == 0:
        pytest.skip("nothing is forbidden to root")
    # Accepted data runs through validation in the test below: validation takes longest, and does not stop it.
    code, said = run(case, stage, tmp_path / "data", STAGES if case.exit_code else ("ingest", "prepare"))
    assert code == case.exit_code, said
    assert "Traceback" not in said
    assert not list(Path(Artifacts().root).rglob("*.tmp"))
    if code == EXIT_OK:
        assert {name: counted()[name] for name in case.counts} == case.counts
    else:
        assert re.search(case.says, said), said
        assert not Artifacts().prepare_stats.exists()


@pytest.mark.slow
@pytest.mark.parametrize("case", ACCEPTED, ids=[case.kind for case in ACCEPTED])
def test_what_is_accepted_passes_the_validation(case: Case, stage, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        code, said = run(case, stage, tmp_path / "data", STAGES)
    assert code == EXIT_OK, said
    assert re.search(case.says, caplog.text)


def test_kinds_are_told_apart():
    kinds = [case.kind for case in CASES]
    assert len(set(kinds)) == len(kinds) >= 40


def test_the_document_names_every_kind_with_its_outcome():
    rows = re.findall(r"^\| (.+?) \| (exit \d|taken) \|", (ROOT / "docs/faults.md").read_text("utf-8"), re.MULTILINE)
    outcomes = {case.kind: f"exit {case.exit_code}" if case.exit_code else "taken" for case in CASES}
    assert dict(rows) == outcomes
