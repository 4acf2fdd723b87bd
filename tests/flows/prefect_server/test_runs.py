"""Which runs count as dead, and how a sweep marks them."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from flows.prefect_server.process_tags import process_tag
from flows.prefect_server.runs import Patience, bury, dead, sweep
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import State

from flows.prefect_server import runs

PATIENCE = Patience(timedelta(minutes=10), timedelta(hours=24), timedelta(minutes=60))


class Server:
    """A client for `sweep`, with one run and its task. since, heard: minutes since the state and the last heartbeat."""

    def __init__(self, state: StateType, since: float, heard: float | None = None, **of_run: Any):
        now = datetime.now(UTC)
        stamp = State(type=state, timestamp=now - timedelta(minutes=since))
        self.run = FlowRun(id=uuid4(), flow_id=uuid4(), name="r", state=stamp, **of_run)
        beats = [] if heard is None else [SimpleNamespace(occurred=now - timedelta(minutes=heard))]
        self.task = SimpleNamespace(id=uuid4())
        self.events, self.said = SimpleNamespace(events=beats), []

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def read_flow_runs(self, **options: Any) -> list[FlowRun]:
        return [self.run]

    def read_task_runs(self, **options: Any) -> list[Any]:
        return [self.task]

    def set_task_run_state(self, run_id: Any, state: State, force: bool) -> None:
        self.said.append((run_id, state.type))

    def read_events(self, *arguments: Any, **options: Any) -> Any:
        return self.events

    def set_flow_run_state(self, run_id: Any, state: State) -> None:
        self.said.append((run_id, state.type))


@pytest.mark.parametrize(
    ("state", "since", "heard", "is_dead"),
    [
        (StateType.RUNNING, 600, 1, False),
        (StateType.RUNNING, 600, 11, True),
        (StateType.RUNNING, 600, None, False),  # by hand, without heartbeats: only time tells
        (StateType.RUNNING, 1500, None, True),
        (StateType.PENDING, 59, None, False),
        (StateType.PENDING, 61, None, True),
        (StateType.CANCELLING, 61, None, True),
    ],
)
def test_a_run_is_dead_when_it_has_given_no_sign_of_life_for_too_long(state, since, heard, is_dead):
    found = list(dead(Server(state, since, heard), patience=PATIENCE))
    assert bool(found) is is_dead


@pytest.mark.parametrize(
    ("state", "end"),
    [
        (StateType.RUNNING, StateType.CRASHED),
        (StateType.PENDING, StateType.CRASHED),
        (StateType.CANCELLING, StateType.CANCELLED),
    ],
)
def test_a_dead_run_crashed_unless_somebody_had_cancelled_it(state, end):
    server = Server(state, 100)
    bury(server, server.run, "gone")
    assert server.said == [(server.task.id, StateType.CRASHED), (server.run.id, end)]


@pytest.fixture
def tag_of_the_dead() -> str:
    """The tag of a process of this machine that has ended."""
    code = "from flows.prefect_server.process_tags import process_tag; print(process_tag())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_run_whose_process_is_gone_is_dead_at_once_and_other_machines_runs_are_left_alone(tag_of_the_dead):
    _, host, *rest = tag_of_the_dead.split(" ")
    for tag, is_dead in {
        tag_of_the_dead: True,
        process_tag(): False,
        " ".join(("process", f"{host}-2", *rest)): False,
        "nightly": False,
    }.items():
        found = [reason for _, reason in dead(Server(StateType.RUNNING, 1, tags=["of ours", tag]))]
        assert found == ["its process is gone from this machine"] * is_dead, tag


def test_without_its_only_worker_a_pools_runs_are_dead_and_no_others():
    for pool, is_dead in {"training": True, "another": False, None: False}.items():
        found = list(dead(Server(StateType.PENDING, 1, work_pool_name=pool), pool="training"))
        assert bool(found) is is_dead, pool


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_sweep_buries_what_is_dead_but_not_in_a_dry_run(monkeypatch, dry_run):
    server = Server(StateType.RUNNING, 1500)
    monkeypatch.setattr(runs, "get_client", lambda sync_client: server)
    assert sweep() == []  # silence alone is no sign of death
    assert server.said == []
    assert sweep(patience=PATIENCE, dry_run=dry_run) == ["r: running, without a heartbeat ever, for 1500 minutes"]
    assert bool(server.said) is not dry_run


def test_a_sweep_never_buries_the_run_that_sweeps(monkeypatch):
    server = Server(StateType.RUNNING, 1500)
    monkeypatch.setattr(runs, "get_client", lambda sync_client: server)
    monkeypatch.setattr(runs, "flow_run", SimpleNamespace(id=str(server.run.id)))
    assert sweep(patience=PATIENCE) == []
    assert server.said == []
