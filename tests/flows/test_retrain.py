"""The flow on small DVC projects: order, exit codes, retries, caching, registration, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from flows.retrain import bring_up_to_date, read_gates, take_delivery, was_killed
from flows.stages.processes import StageError
from prefect.states import Failed

from flows import retrain
from support.flow_project import (
    EVERY_STAGE,
    MAKE_MODEL,
    STAGE,
    make_project,
    make_three_stages,
    reproduce,
    reproduce_here,
    versions,
)
from support.living import processes_of, wait_for
from support.project import PARAMS_FILE, ROOT
from unigrec.base import files
from unigrec.base.errors import EXIT_BAD_INPUT, EXIT_INVALID_DATA, EXIT_REFUSED, UnigrecError
from unigrec.base.lock import exclusive
from unigrec.base.paths import Artifacts
from unigrec.commands import snapshot
from unigrec.config.read import load_params


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_three_stages(tmp_path)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (StageError("joint", 137), True),
        (StageError("joint", -9), True),
        (StageError("validate", 3), False),
        (StageError("ingest", 2), False),
        (StageError("ingest", 1), False),
        (UnigrecError("disk full"), False),
        (ValueError("bug"), False),
    ],
)
def test_only_what_a_signal_ended_is_tried_again(error, again):
    assert was_killed(None, None, Failed(data=error)) is again
    assert bring_up_to_date.retries == 2


def test_what_a_killed_dvc_was_writing_is_put_right_before_the_next_try(project, monkeypatch):
    reproduce_here(["first", "second"])

    def killed(stage: str, emit: object) -> bool:
        (project / "dvc.lock").write_text("")  # as DVC empties it before it writes it again
        raise StageError(stage, 137)

    monkeypatch.setattr(retrain, "run_stage", killed)
    monkeypatch.setattr(retrain, "stage_output", lambda indent: nullcontext(print))
    with pytest.raises(StageError):
        bring_up_to_date.fn("second", stale=True)
    assert reproduce(["first", "second"]) == [False, False]


def test_a_stage_that_is_up_to_date_starts_no_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no pipeline here: any process would fail
    state = bring_up_to_date.fn("first", stale=False)
    assert (state.name, state.is_completed()) == ("Cached", True)


def test_only_a_gate_that_is_not_informational_refuses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gates = [{"name": "old", "passed": True, "reason": "-"}]
    gates.append({"name": "note", "passed": False, "reason": "a target", "informational": True})
    files.write_json(Artifacts().decision, {"passed": True, "gates": gates})
    assert read_gates.fn().name == "Passed"
    gates.append({"name": "bad", "passed": False, "reason": "too little", "informational": False})
    files.write_json(Artifacts().decision, {"passed": False, "gates": gates})
    assert (read_gates.fn().name, read_gates.fn().message) == ("Refused", "bad: too little")


def test_one_run_at_a_time(tmp_path):
    lock = tmp_path / "state/run.lock"
    with exclusive(lock), pytest.raises(UnigrecError, match=f"process {os.getpid()}"), exclusive(lock):
        pass
    with exclusive(lock):
        pass


@pytest.mark.parametrize(("new", "name"), [(True, "Completed"), (False, "Cached")])
def test_a_delivery_that_brings_nothing_new_is_a_cached_task_and_one_line(new, name, monkeypatch, capsys):
    monkeypatch.setattr(snapshot, "take_delivery", lambda params, file: snapshot.Taken(new, "what was said"))
    monkeypatch.setattr(snapshot, "take_delivery", lambda params, file: snapshot.Taken(new, "what was said"))
    state = take_delivery.fn(load_params(PARAMS_FILE))
    assert (state.name, state.message) == (name, "what was said")
    assert capsys.readouterr().out == "what was said\n"


# --- the whole flow, as a user starts it ----------------------------------------------------------------------------


def write_model_project(folder: Path) -> Path:
    """One stage that writes a tiny model's artifacts. The file `mode` decides how it ends."""
    shutil.copy(PARAMS_FILE, folder / "params.yaml")
    (folder / "make_model.py").write_text(MAKE_MODEL.format(tests=str(ROOT / "tests")))
    outs = [*(f"artifacts/{name}" for name in EVERY_STAGE), "artifacts/validated.json"]
    make_project(folder, {"model": {"cmd": STAGE, "deps": ["mode", "make_model.py"], "outs": outs}})
    return folder


@pytest.fixture(scope="module")
def model_project(tmp_path_factory) -> Path:
    return write_model_project(tmp_path_factory.mktemp("model"))


def start(folder: Path, mode: str, **environment: str) -> subprocess.Popen:
    (folder / "mode").write_text(mode)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.retrain"],
        cwd=folder,
        env={**clean, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell lets its background jobs ignore Ctrl-C, and what they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run_flow(folder: Path, mode: str, **environment: str) -> tuple[int, str]:
    process = start(folder, mode, **environment)
    output = process.communicate(timeout=240)[0]
    return process.returncode, output


@pytest.mark.slow
@pytest.mark.timeout(1200)  # four runs, each with a server of its own, beside other tests
def test_a_whole_run_then_nothing_to_do_then_refused_then_broken(model_project):
    code, output = run_flow(model_project, "good")
    assert code == 0, output
    assert versions(model_project) == [(1, "challenger champion")]
    assert "Registered  unigrec version 1, alias challenger, champion: is the first champion" in output
    assert "unigrec recommend --history" in output
    assert "Traceback" not in output

    code, output = run_flow(model_project, "good")
    assert (code, versions(model_project)) == (0, [(1, "challenger champion")])
    assert "model: cached" in output
    assert "cached: model, register, promote" in output

    code, output = run_flow(model_project, "refused")
    assert code == EXIT_REFUSED, output
    assert versions(model_project) == [(1, "challenger champion"), (2, "")]
    assert "without alias: the gates refused it" in output

    code, output = run_flow(model_project, str(EXIT_INVALID_DATA))
    assert code == EXIT_INVALID_DATA
    assert "error: stage model failed with exit status 3" in output
    assert output.count("Running stage") == 1  # bad data is not tried again
    assert len(versions(model_project)) == 2


@pytest.mark.slow
def test_a_dead_tracker_keeps_the_model_and_names_the_command(model_project):
    code, output = run_flow(model_project, "good", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert code == EXIT_BAD_INPUT
    kept = output.split("unigrec register --bundle '")[1].split("'")[0]
    assert (model_project / kept / "manifest.json").is_file()


@pytest.mark.slow
def test_of_two_that_start_at_the_same_moment_one_works_and_the_other_says_who(tmp_path):
    folder = write_model_project(tmp_path)
    both = [start(folder, "good") for _ in range(2)]
    outputs = [process.communicate(timeout=240)[0] for process in both]
    worked = [process.returncode for process in both].index(0)
    busy = f"another run is at work in this folder (process {both[worked].pid})"
    assert (both[1 - worked].returncode, busy in outputs[1 - worked]) == (EXIT_BAD_INPUT, True), outputs
    assert versions(folder) == [(1, "challenger champion")]
    assert (processes_of(folder), open_runs(folder)) == ([], [])


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_leaves_nothing_running_and_the_next_one_finishes(model_project, number):
    (model_project / "started").unlink(missing_ok=True)
    process = start(model_project, "slow")
    wait_for((model_project / "started").exists, 240)
    code, output = run_flow(model_project, "slow")
    assert code == EXIT_BAD_INPUT
    assert f"another run is at work in this folder (process {process.pid})" in output
    os.kill(process.pid, number)
    process.wait(30)
    wait_for(lambda: not processes_of(model_project), 10)
    assert run_flow(model_project, "good")[0] == 0
    assert open_runs(model_project) == []


def open_runs(folder: Path) -> list[str]:
    """States of the runs that have not ended, according to Prefect."""
    with sqlite3.connect(folder / "state/prefect/prefect.db") as store:
        found = store.execute("select state_type from flow_run union all select state_type from task_run").fetchall()
    return [state for (state,) in found if state in ("PENDING", "RUNNING", "CANCELLING")]
