"""Runs as Prefect's server has them: which are dead, because no process is at work on them, and which are old."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventOrder, EventResourceFilter
from prefect.runtime import flow_run
from prefect.states import Cancelled, Crashed
from prefect.types._datetime import now

from flows.prefect_server.process_tags import is_gone

HEARTBEAT = "prefect.flow-run.heartbeat"
AT_WORK = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
OVER = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)
IS_AT_WORK = {"state": {"type": {"any_": list(AT_WORK)}}}
PAGE = 200  # the server's maximum


class Patience(NamedTuple):
    """How long a run may give no sign of life before it counts as dead."""

    silent: timedelta  # running, since its last heartbeat
    mute: timedelta  # running, since it began, if it has never sent a heartbeat
    pending: timedelta  # about to start or to be cancelled, since it entered that state


def sweep(pool: str | None = None, patience: Patience | None = None, dry_run: bool = False) -> list[str]:
    """Mark every dead run as crashed. Its place under a concurrency limit is free again, and notifications go out.

    Args:
        pool: a work pool whose only worker is not running.
        patience: None: silence alone is not a sign of death. The server's own automation watches for it too.
        dry_run: change nothing.

    Returns:
        Each dead run's name and the reason.
    """
    with get_client(sync_client=True) as client:
        found = [(run, reason) for run, reason in dead(client, pool, patience) if str(run.id) != flow_run.id]
        for run, reason in [] if dry_run else found:
            bury(client, run, reason)
    return [f"{run.name}: {reason}" for run, reason in found]


def dead(
    client: SyncPrefectClient, pool: str | None = None, patience: Patience | None = None
) -> Iterator[tuple[FlowRun, str]]:
    """Runs that no process can be at work on, each with the reason. Arguments as for `sweep`."""
    at_work = FlowRunFilter.model_validate(IS_AT_WORK)
    for run in client.read_flow_runs(flow_run_filter=at_work, limit=PAGE):
        if any(is_gone(tag) for tag in run.tags):
            yield run, "its process is gone from this machine"
        elif pool and run.work_pool_name == pool:
            yield run, f"no worker of the pool {pool} is running"
        elif patience and (reason := _silence(client, run, patience)):
            yield run, reason


def _silence(client: SyncPrefectClient, run: FlowRun, patience: Patience) -> str | None:
    """For how long a run has given no sign of life, if that is longer than we wait."""
    assert run.state is not None
    since, bound, what = run.state.timestamp, patience.pending, f"{run.state.name} for"
    if run.state.type == StateType.RUNNING:
        heard = last_heartbeat(client, run, since)
        bound = patience.silent if heard else patience.mute
        what = "no heartbeat for" if heard else "running, without a heartbeat ever, for"
        since = heard or since
    silence = now("UTC") - since
    return f"{what} {silence.total_seconds() / 60:.0f} minutes" if silence > bound else None


def last_heartbeat(client: SyncPrefectClient, run: FlowRun, since: datetime) -> datetime | None:
    """When a run sent its last heartbeat, or None."""
    wanted = EventFilter(
        event=EventNameFilter(name=[HEARTBEAT]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
        occurred=EventOccurredFilter.model_validate({"since": since}),
        order=EventOrder.DESC,
    )
    found = client.read_events(wanted, limit=1).events
    return found[0].occurred if found else None


def bury(client: SyncPrefectClient, run: FlowRun, reason: str) -> None:
    """Mark a dead run and its tasks as crashed; the run as cancelled, if somebody had asked for that."""
    assert run.state is not None
    message = f"nobody is at work on it: {reason}"
    of_run = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
    open_tasks = TaskRunFilter.model_validate(IS_AT_WORK)
    for task in client.read_task_runs(flow_run_filter=of_run, task_run_filter=open_tasks):
        client.set_task_run_state(task.id, Crashed(message=message), force=True)
    name = Cancelled if run.state.type == StateType.CANCELLING else Crashed
    client.set_flow_run_state(run.id, name(message=message))


def old(client: SyncPrefectClient, age: timedelta) -> Iterator[FlowRun]:
    """Runs that ended longer ago than `age`, without the runs within them, which are deleted with them."""
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
    """All runs, read before the first is handed on: deleting runs would shift the pages."""
    found: list[FlowRun] = []
    while page := read(len(found)):
        found += page
    yield from found
