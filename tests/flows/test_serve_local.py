"""Servers, worker, schedule and notifications together, as real processes on a small project, from an empty state."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from support.flow_project import EVERY_STAGE, MAKE_MODEL, STAGE, make_project
from support.living import processes_of
from support.local import SECRET_PATH, Local, Webhook, copy_code, serve_local, wait_for, write_deployments
from support.project import ROOT
from support.repository import commit, git
from unigrec.base.files import read_table
from unigrec.config.edit import configure
from unigrec.registry.tracking import PASSWORD_VARIABLE

pytestmark = [pytest.mark.long, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A repository whose one stage writes a tiny model. The committed file `mode` decides how it ends."""
    folder = tmp_path_factory.mktemp("served").resolve()
    copy_code(folder)
    (folder / "make_model.py").write_text(MAKE_MODEL.format(tests=str(ROOT / "tests")))
    outs = [*(f"artifacts/{name}" for name in EVERY_STAGE), "artifacts/validated.json"]
    make_project(folder, {"model": {"cmd": STAGE, "deps": ["mode", "make_model.py"], "outs": outs}})
    (folder / ".dvc/config").write_text((ROOT / ".dvc/config").read_text())  # there is a git repository
    (folder / "log.csv").write_text("user_id,item_id,timestamp\nu,P3,1700000000\nv,P4,1700000000\n")
    configure(folder / "params.yaml", settings=["score.histories=log.csv", "score.k=2"])
    write_deployments(folder, retrain=[{"interval": 60}])
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    commit(folder, mode="good")
    return folder


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    found = Webhook()
    yield found
    found.close()


@pytest.fixture(scope="module")
def local(project, webhook) -> Iterator[Local]:
    with serve_local(project, UNIGREC_WEBHOOK_URL=webhook.url) as running:
        yield running


def test_a_scheduled_run_happens_by_itself_and_ends_with_a_challenger(local, webhook):
    """From an empty state. A promotion is notified."""

    def done() -> list[FlowRun]:
        return [run for run in local.client.read_flow_runs() if run.auto_scheduled and run.state_name == "Completed"]

    (run,) = wait_for(done, 1500, "a scheduled run")
    deployment = next(known for known in local.client.read_deployments() if known.name == "retrain")
    local.client.pause_deployment(deployment.id)
    with sqlite3.connect(local.folder / "state/services/mlflow.db") as store:
        aliases = store.execute("select alias, version from registered_model_aliases order by alias").fetchall()
    assert aliases == [("challenger", 1), ("champion", 1)]
    assert "ran: model; params.yaml and dvc.lock are on branch retrain/" in run.state.message
    posted = webhook.posted("Promoted")
    assert (posted["run"], posted["state"], posted["event"]) == ("promote", "Promoted", "prefect.task-run.Promoted")
    assert "first champion" in posted["message"]


def test_a_promotion_starts_the_scoring_of_all_users(local):
    deployment = next(known for known in local.client.read_deployments() if known.name == "score")

    def started() -> list[FlowRun]:
        return [run for run in local.client.read_flow_runs() if run.deployment_id == deployment.id]

    (run,) = wait_for(started, 120, "the run that a promotion starts")
    state = local.ended(run)
    assert (state.name, "lists.parquet: 2 users, 4 rows, by version 1" in state.message) == ("Completed", True)
    assert read_table(local.folder / "state/lists.parquet").num_rows == 4


def test_of_two_at_once_the_newer_is_cancelled_and_somebody_is_notified(local, webhook):
    first, second = local.nap(), local.start("nap")
    assert local.ended(second).name == "Cancelled"
    assert webhook.posted(f"{second.name} Cancelled")["message"] == "Deployment concurrency limit reached."
    assert local.state(first).name == "Running"


def test_what_a_person_cancels_ends_with_its_child_and_somebody_is_notified(local, webhook):
    running = next(run for run in local.client.read_flow_runs() if run.state_name == "Running")
    child = int((local.folder / "napping").read_text())
    local.client.set_flow_run_state(running.id, Cancelling())
    assert local.ended(running).name == "Cancelled"
    webhook.posted(f"{running.name} Cancelled")
    wait_for(lambda: child not in processes_of(local.folder), 60, "the child's end")


def test_a_killed_flow_has_crashed_leaves_no_child_and_somebody_is_notified(local, webhook):
    running = local.nap()
    child = int((local.folder / "napping").read_text())
    for process in flow_processes(local.folder):
        os.kill(process, signal.SIGKILL)
    assert local.ended(running).name == "Crashed"
    assert webhook.posted(f"{running.name} Crashed")["state"] == "Crashed"
    wait_for(lambda: child not in processes_of(local.folder), 60, "the child's end")


def flow_processes(folder: Path) -> list[int]:
    return [found for found in processes_of(folder) if _runs(found, "prefect.engine") or _runs(found, "flow_engine")]


def _runs(process: int, word: str) -> bool:
    return word in Path(f"/proc/{process}/cmdline").read_text()


def test_a_failure_and_a_refusal_are_notified(local, webhook):
    commit(local.folder, mode="3")
    failed = local.start("retrain")
    assert local.ended(failed).name == "Failed"
    assert "exit status 3" in webhook.posted(f"{failed.name} Failed")["message"]
    commit(local.folder, mode="refused")
    assert local.ended(local.start("retrain")).name == "Refused"
    assert webhook.posted("Refused")["run"] == "gate"


def test_a_webhook_that_refuses_or_is_gone_fails_no_run(local, webhook):
    webhook.status, before = 500, len(webhook.received)
    running = local.nap()
    assert local.ended(local.start("nap")).name == "Cancelled"
    wait_for(lambda: len(webhook.received) > before, 120, "an answer that is refused")
    webhook.close()
    assert local.ended(local.start("nap")).name == "Cancelled"
    assert local.state(running).name == "Running"
    os.kill(int((local.folder / "napping").read_text()), signal.SIGKILL)
    assert local.ended(running).name == "Completed"


def test_promote_and_housekeeping_run_as_deployments(local):
    assert local.ended(local.start("promote")).is_completed()
    done = local.ended(local.start("housekeeping", dry_run=True))
    assert done.is_completed()
    assert "Dead runs: 0; Old runs: 0; Stale locks: 0" in done.message


def test_the_webhooks_address_is_in_no_file_and_no_command_line(local):
    files = [path for path in local.folder.rglob("*") if path.is_file()]
    assert {"prefect.db", "prefect.log", "worker.log"} <= {path.name for path in files}
    assert [path for path in files if SECRET_PATH.encode() in path.read_bytes()] == []
    assert [process for process in processes_of(local.folder) if _runs(process, SECRET_PATH)] == []


def test_a_run_whose_worker_died_with_it_has_crashed(local):
    run = local.nap()
    workers = [found for found in processes_of(local.folder) if _runs(found, "prefect\0worker")]
    (worker,) = [found for found in workers if not _runs(found, "supervisor.py")]  # which ends what the worker started
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: not flow_processes(local.folder), 60, "the flow's end")
    assert local.ended(run).name == "Crashed"
    assert "no heartbeat" in local.state(run).message


def test_a_start_after_a_death_buries_what_was_left_and_a_stop_leaves_nothing(local, project):
    """With a password. All is killed during a run, as by a power cut. Started again, it is stopped during another."""
    password = {PASSWORD_VARIABLE: "pl4nted-secret-one"}
    local.process.kill()
    wait_for(lambda: not processes_of(project), 60, "everything to end")
    write_deployments(project)
    with serve_local(project, **password) as again:
        run = again.nap()
        again.process.kill()
        wait_for(lambda: not processes_of(project), 60, "everything to end")
    with serve_local(project, **password) as again:
        assert again.state(run).name == "Crashed"
        next_run = again.nap()  # its place is free
        again.process.send_signal(signal.SIGTERM)
        assert again.process.wait(120) == 0
        assert not processes_of(project)
    with sqlite3.connect(project / "state/services/prefect.db") as store:
        state = store.execute("select state_name from flow_run where id = ?", [str(next_run.id)]).fetchone()
    assert state == ("Crashed",)
