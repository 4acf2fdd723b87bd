"""Runs as Prefect's server has them: which nobody is at work on any more, and which are old."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventOrder, EventResourceFilter
from prefect.states import Cancelled, Crashed
from prefect.types._datetime import now

HEARTBEAT = "prefect.flow-run.heartbeat"
AT_WORK = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
OVER = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)
IS_AT_WORK = {"state": {"type": {"any_": list(AT_WORK)}}}
PAGE = 200  # the most that the server gives at once


class Patience(NamedTuple):
    """How long a run may be without a sign of life before it counts as dead."""

    silent: timedelta  # running, since its last heartbeat
    mute: timedelta  # running, since it began, where it has never sent one
    pending: timedelta  # about to start or to be cancelled, since it is


def at_work(client: SyncPrefectClient, pool: str | None = None) -> list[FlowRun]:
    """Runs that are about to start, running or about to be cancelled: of a work pool, or all."""
    of_pool = {"name": {"any_": [pool]}} if pool else None
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate(IS_AT_WORK),
        work_pool_filter=WorkPoolFilter.model_validate(of_pool) if of_pool else None,
        limit=PAGE,
    )


def dead(client: SyncPrefectClient, patience: Patience) -> Iterator[tuple[FlowRun, str]]:
    """Runs that nobody can be at work on, each with the reason in words."""
    for run in at_work(client):
        assert run.state is not None
        since, bound, what = run.state.timestamp, patience.pending, f"{run.state.name} for"
        if run.state.type == StateType.RUNNING:
            heard = last_heartbeat(client, run, run.state.timestamp)
            bound = patience.silent if heard else patience.mute
            what = "no heartbeat for" if heard else "running, without a heartbeat ever, for"
            since = heard or run.state.timestamp
        if now("UTC") - since > bound:
            yield run, f"{what} {(now('UTC') - since).total_seconds() / 60:.0f} minutes"


def last_heartbeat(client: SyncPrefectClient, run: FlowRun, since: datetime) -> datetime | None:
    """When a run gave its last sign of life, or None."""
    wanted = EventFilter(
        event=EventNameFilter(name=[HEARTBEAT]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
        occurred=EventOccurredFilter.model_validate({"since": since}),
        order=EventOrder.DESC,
    )
    found = client.read_events(wanted, limit=1).events
    return found[0].occurred if found else None


def bury(client: SyncPrefectClient, run: FlowRun, reason: str) -> None:
    """Say of a dead run and of its tasks that they crashed (the run: was cancelled, where somebody had asked for that).

    Its place under a concurrency limit is free again, and whoever is to be told is told.
    """
    assert run.state is not None
    message = f"nobody is at work on it: {reason}"
    of_run = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
    open_tasks = TaskRunFilter.model_validate(IS_AT_WORK)
    for task in client.read_task_runs(flow_run_filter=of_run, task_run_filter=open_tasks):
        client.set_task_run_state(task.id, Crashed(message=message), force=True)
    name = Cancelled if run.state.type == StateType.CANCELLING else Crashed
    client.set_flow_run_state(run.id, name(message=message))


def old(client: SyncPrefectClient, age: timedelta) -> Iterator[FlowRun]:
    """Runs that ended longer ago than that; a run within a run goes with it."""
    wanted = {
        "state": {"type": {"any_": list(OVER)}},
        "end_time": {"before_": (now("UTC") - age).isoformat()},
        "parent_task_run_id": {"is_null_": True},
    }
    yield from _pages(
        lambda offset: client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate(wanted),
            sort=FlowRunSort.END_TIME_DESC,
            limit=PAGE,
            offset=offset,
        )
    )


def _pages(read: Callable[[int], list[FlowRun]]) -> Iterator[FlowRun]:
    """All of them, read before the first is handed on: what is deleted meanwhile moves no page."""
    found: list[FlowRun] = []
    while page := read(len(found)):
        found += page
    yield from found
