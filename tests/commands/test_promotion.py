"""`unigrec gate`, `promote` and `rollback`: what they print and write, and their exit codes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from support.command_line import invoke
from support.project import PARAMS_FILE
from support.tiny_model import USERS, make_bundle, write_artifacts, write_data
from unigrec.base import files, paths
from unigrec.base.errors import EXIT_BAD_INPUT, EXIT_OK, EXIT_REFUSED
from unigrec.base.paths import Artifacts
from unigrec.promotion import audit, judge
from unigrec.serving import probe

GOOD, OTHER = 0, 1  # seeds: the data favour the first


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with params; bundles are probed in this process, which takes no seconds to start."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(PARAMS_FILE, tmp_path / "params.yaml")
    asked = lambda folder, requests, k, limit: probe.measure(folder, requests, k)["latency_ms"]  # noqa: E731
    monkeypatch.setattr(judge, "probe", asked)
    return tmp_path


def test_gate_shows_reasons_and_exits_by_the_decision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for passed, expected in ((True, EXIT_OK), (False, EXIT_REFUSED)):
        write_artifacts(0, passed, None, 0)
        code, output = invoke("gate")
        assert (code, "a | reason" in output) == (expected, True)


def test_gate_shows_a_missed_target_as_a_note_that_refuses_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_artifacts(0, True, None, 0)
    decision = files.read_json(Artifacts().decision)
    note = {"name": "hit_rate_kept", "value": 0.1, "threshold": 0.8, "reason": "little", "informational": True}
    for passed, shown in ((True, "note: met"), (False, "note: missed")):
        files.write_json(Artifacts().decision, decision | {"gates": [*decision["gates"], note | {"passed": passed}]})
        code, output = invoke("gate")
        assert (code, shown in output, "REFUSED" in output) == (EXIT_OK, True, False)


def test_gate_takes_no_decision_from_a_run_before_the_one_that_its_data_stopped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_artifacts(0, True, None, 0)
    Artifacts().validated.unlink()
    code, output = invoke("gate")
    assert (code, "stopped before its data was valid" in " ".join(output.split())) == (2, True)


def test_gate_without_a_run_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = invoke("gate")
    assert (code, "dvc repro" in output) == (2, True)


def test_a_registered_challenger_is_compared_with_the_champion(registered, monkeypatch):
    monkeypatch.chdir(registered)
    monkeypatch.setattr(judge, "probe", lambda *_, limit: [1.0])
    code, output = invoke("gate", "--challenger", "challenger")
    assert (code, "the champion's own bundle" in " ".join(output.split())) == (EXIT_OK, True), output
    assert files.read_json(paths.COMPARISONS / "challenger-vs-champion/comparison.json")["outcome"] == "promote"
    code, output = invoke("gate", "--challenger", "1", "--champion", "previous")
    assert (code, "no version or alias 'previous'" in output) == (2, True)


def test_the_first_champion_was_judged_and_written_down(registered, monkeypatch):
    monkeypatch.chdir(registered)
    assert files.read_json(paths.COMPARISONS / "1-vs-none/comparison.json")["outcome"] == "promote"
    assert [line["event"] for line in audit.read(paths.AUDIT)] == ["intent", "done"]
    assert invoke("promote") == (EXIT_OK, "version 1 is champion: is the champion already\n")
    code, output = invoke("rollback")
    assert (code, "unigrec rollback --to VERSION" in output) == (2, True)
    assert invoke("rollback", "--to", "1") == (EXIT_OK, "version 1 stays: is the champion already\n")


def test_the_command_needs_no_registry_for_folders_and_says_how_it_went(project, monkeypatch):
    monkeypatch.setattr("unigrec.registry.tracking.mlflow_client", None)
    monkeypatch.setattr("unigrec.registry.versions.mlflow_client", None)
    good, other = (os.path.relpath(make_bundle(seed)) for seed in (GOOD, OTHER))
    same = os.path.relpath(make_bundle(GOOD, ranks=[3] * USERS))
    for challenger, champion, expected, outcome in (
        (good, other, EXIT_OK, "promote"),
        (other, good, EXIT_REFUSED, "refuse"),
        (same, good, EXIT_REFUSED, "keep"),
        (good, "none", EXIT_OK, "promote"),
    ):
        out = Path("first" if champion == "none" else outcome)
        code, output = invoke("gate", "--challenger", challenger, "--champion", champion, "--out", str(out))
        assert code == expected, output
        found = files.read_json(out / "comparison.json")
        assert found["outcome"] == outcome
        page = (out / "comparison.md").read_text()
        assert page.startswith("## Gate: ")
        assert found["passed"] is (expected == EXIT_OK)
        assert ("REFUSED" in page or "NOT PROMOTED" in page) is (expected != EXIT_OK)
    assert not list(project.glob("mlflow*"))


def test_without_an_out_folder_it_is_kept_by_its_names(project):
    good, other = make_bundle(GOOD), make_bundle(OTHER)
    assert invoke("gate", "--challenger", str(good), "--champion", str(other))[0] == EXIT_OK
    assert (paths.COMPARISONS / f"{good.name}-vs-{other.name}" / "comparison.md").is_file()


@pytest.mark.parametrize("gone", [Artifacts().sequences, Artifacts().catalogue])
def test_without_prepared_data_it_cannot_be_decided(project, gone):
    good = str(make_bundle(GOOD))
    gone.unlink()
    code, output = invoke("gate", "--challenger", good, "--champion", "none", "--out", "out")
    assert (code, "dvc repro prepare" in " ".join(output.split())) == (EXIT_BAD_INPUT, True)
    assert files.read_json(Path("out/comparison.json"))["outcome"] == "undecided"
    assert "could not decide" in Path("out/comparison.md").read_text()


def test_what_nobody_foresaw_is_no_refusal(project, monkeypatch):
    good = str(make_bundle(GOOD))
    monkeypatch.setattr(judge, "ranks_of", lambda *_: 1 / 0)
    code, output = invoke("gate", "--challenger", good, "--champion", "none", "--out", "out")
    assert (code, "ZeroDivisionError" in output) == (EXIT_BAD_INPUT, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--champion", "none"], "go with --challenger"),
        (["--challenger", "./gone", "--champion", "none"], "no such bundle"),
    ],
)
def test_impossible_questions(project, arguments, message):
    write_data(GOOD)
    code, output = invoke("gate", *arguments)
    assert (code, message in output) == (EXIT_BAD_INPUT, True)
