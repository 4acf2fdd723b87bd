"""Housekeeping for a machine that retrains every night: marks dead runs, removes leftovers and old runs.

`python -m flows.housekeeping` runs it at once. prefect.yaml holds its schedule and how long things are kept.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.states import Completed, Failed, State

from flows.checkout import leftovers
from flows.checkout.worktree import LOCK as WORKTREE_LOCK
from flows.prefect_server import runs
from flows.prefect_server.server import run_here
from unigrec.base import paths
from unigrec.base.errors import EXIT_OK, BusyError, UnigrecError
from unigrec.base.git import PARAMS
from unigrec.base.lock import exclusive
from unigrec.base.masking import masked
from unigrec.config.read import load_params
from unigrec.config.schema import RegisterParams
from unigrec.registry.tracking import mlflow_client

# A process that holds one of these works on the files to be tidied. A scheduled run holds the first.
LOCKS = (WORKTREE_LOCK, paths.LOCK)


class Kept(NamedTuple):
    """How long things are kept."""

    runs: timedelta
    folders_days: float
    branches_days: float
    locks_hours: float


@task(task_run_name="dead runs")
def bury_dead_runs(patience: runs.Patience, dry_run: bool) -> list[str]:
    """Mark runs whose process is gone as crashed."""
    return runs.sweep(patience=patience, dry_run=dry_run)


@task(task_run_name="old runs")
def delete_old_runs(age: timedelta, dry_run: bool) -> list[str]:
    """Delete runs that ended long ago from Prefect's database. What they registered stays."""
    with get_client(sync_client=True) as client:
        found = list(runs.old(client, age))
        for run in [] if dry_run else found:
            client.delete_flow_run(run.id)
    return [f"{run.name}, ended {run.end_time:%Y-%m-%d}" for run in found]


@task(task_run_name="files")
def tidy_files(kept: Kept, dry_run: bool) -> dict[str, list[str]]:
    """Remove stale locks, old folders, reports and branches, and unused data in the cache. Not during a training."""
    root = Path.cwd()
    with ExitStack() as stack:
        for lock in LOCKS:
            stack.enter_context(exclusive(lock))
        # If MLflow does not answer, this raises, and nothing is removed.
        versions, needed = known_versions(load_params(PARAMS).register_)
        return {
            "Stale locks": leftovers.remove_stale_locks(root, kept.locks_hours, dry_run),
            "Old folders": leftovers.remove_old_folders(root, kept.folders_days, dry_run),
            "Old reports": leftovers.remove_old_reports(root, kept.folders_days, versions, dry_run),
            "Old branches": leftovers.remove_old_branches(root, kept.branches_days, needed, dry=dry_run),
            "DVC cache": leftovers.collect_cache(root, dry_run),
        }


def known_versions(params: RegisterParams) -> tuple[set[str], set[str]]:
    """The numbers of all model versions, and the hashes of dvc.lock of those that have an alias.

    Raises UnigrecError if MLflow does not answer.
    """
    with mlflow_client(params) as client:
        models = client.search_registered_models(f"name = '{params.model_name}'")
        named = {number for model in models for number in model.aliases.values()}
        needed = {client.get_model_version(params.model_name, number).tags.get("dvc_lock", "") for number in named}
        numbers: set[str] = set()
        page: str | None = ""
        while page is not None:
            found = client.search_model_versions(f"name = '{params.model_name}'", page_token=page or None)
            numbers |= {str(version.version) for version in found}
            page = found.token or None
        return numbers, needed


@flow(name="housekeeping")
def housekeeping(
    silent_minutes: float = 10.0,
    mute_hours: float = 24.0,
    pending_minutes: float = 60.0,
    keep_runs_days: float = 90.0,
    keep_folders_days: float = 14.0,
    keep_branches_days: float = 90.0,
    stale_lock_hours: float = 6.0,
    dry_run: bool = False,
) -> Any:
    """Mark dead runs, remove leftovers and old runs, and report it in one artifact.

    Args:
        silent_minutes: a running run is dead after this long without a heartbeat.
        mute_hours: a running run that has never sent a heartbeat is dead this long after it began.
        pending_minutes: a run that is about to start, or to be cancelled, is dead after this long.
        keep_runs_days, keep_folders_days, keep_branches_days, stale_lock_hours: what is younger stays.
        dry_run: report what would be done, and change nothing.
    """
    patience = runs.Patience(
        timedelta(minutes=silent_minutes), timedelta(hours=mute_hours), timedelta(minutes=pending_minutes)
    )
    kept = Kept(timedelta(days=keep_runs_days), keep_folders_days, keep_branches_days, locks_hours=stale_lock_hours)
    done: dict[str, list[str] | str] = {}
    failed = []
    # Each part runs even if the one before it has failed.
    for title, state in (
        ("Dead runs", bury_dead_runs(patience, dry_run, return_state=True)),
        ("Old runs", delete_old_runs(kept.runs, dry_run, return_state=True)),
        ("Files", tidy_files(kept, dry_run, return_state=True)),
    ):
        found: Any = state.result(raise_on_failure=False)
        if isinstance(found, BusyError):
            done[title] = f"left for the next time: {found}"
        elif not state.is_completed():
            done[title] = f"failed: {masked(str(found))}"
            failed.append(title)
        else:
            done |= found if isinstance(found, dict) else {title: found}
    create_markdown_artifact(report(done, dry_run), key="housekeeping", description="what housekeeping did")
    return _closing(done, failed)


def report(done: dict[str, list[str] | str], dry_run: bool) -> str:
    """Markdown: under each heading, what was removed or why nothing was removed."""
    lines = ["# Housekeeping", "Nothing was changed: a dry run." if dry_run else ""]
    for title, found in done.items():
        entries = [f"- `{entry}`" for entry in found] if isinstance(found, list) else [found]
        lines += ["", f"## {title}", *(entries or ["nothing"])]
    return "\n".join(lines)


def _closing(done: dict[str, list[str] | str], failed: list[str]) -> State:
    """The flow's last state, with the counts as its message."""
    counts = [f"{title}: {len(found) if isinstance(found, list) else found}" for title, found in done.items()]
    return (Failed if failed else Completed)(message="; ".join(counts))


def _say(state: Any) -> int:
    """Print the counts and return the exit code."""
    print(state.message)
    return EXIT_OK if state.is_completed() else UnigrecError.exit_code


def main() -> int:
    """Run the flow in this process. Returns an exit code of errors.py."""
    return run_here(lambda: _say(housekeeping(return_state=True)))


if __name__ == "__main__":
    sys.exit(main())
