"""The whole job: every stage of dvc.yaml in DVC's order, then gate, register, promote: `python -m flows.retrain`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, State

from flows.prefect_server.output import stage_output
from flows.prefect_server.server import run_here
from flows.promote import promote_and_show
from flows.stages.graph import read_graph
from flows.stages.processes import StageError, run_stage
from flows.states import StateName
from unigrec.base import files, paths
from unigrec.base.errors import EXIT_OK, EXIT_REFUSED
from unigrec.base.git import PARAMS
from unigrec.base.lock import exclusive
from unigrec.base.paths import Artifacts
from unigrec.commands import bundles, reports, snapshot
from unigrec.commands.bars import VERBOSE_VARIABLE
from unigrec.config.read import load_params
from unigrec.config.schema import Params
from unigrec.core.decisions.gates import is_refusing
from unigrec.pipeline.summary import markdown, print_summary, summarise
from unigrec.registry.tracking import tracking_uri
from unigrec.registry.versions import Registration, current_aliases, register

RETRIES = 2
RETRY_SECONDS = 5


def was_killed(task: Any, run: Any, state: State) -> bool:
    """Whether to try a stage again: only if a signal ended it. Bad input and bad data would fail again."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageError) and error.killed


@task(task_run_name="{stage}", retries=RETRIES, retry_delay_seconds=RETRY_SECONDS, retry_condition_fn=was_killed)
def bring_up_to_date(stage: str, stale: bool) -> Any:
    """Bring one stage of dvc.yaml up to date. The task is Cached if the stage's command had no reason to run."""
    if not stale:
        return Completed(message=f"{stage} is up to date", name=StateName.CACHED)
    try:
        with stage_output("  ") as emit:
            ran = run_stage(stage, emit)
    except StageError as error:
        if error.killed:
            read_graph()  # repairs what the killed DVC was writing, for the next try
        raise
    if ran:
        return Completed(message=f"{stage} ran")
    return Completed(message=f"{stage} is up to date", name=StateName.CACHED)


@task(task_run_name="snapshot")
def take_delivery(params: Params) -> Any:
    """Take the delivery as the next snapshot. Cached if it brings nothing new."""
    taken = snapshot.take_delivery(params, PARAMS)
    print(taken.said, flush=True)
    return Completed(message=taken.said, name=None if taken.new else StateName.CACHED)


@task(task_run_name="gate")
def read_gates() -> Any:
    """Read what the gates decided. A refusal is a result, not a failure."""
    gates = files.read_json(Artifacts().decision)["gates"]
    refused = [gate for gate in gates if is_refusing(gate)]
    reasons = "; ".join(f"{gate['name']}: {gate['reason']}" for gate in refused)
    name = StateName.REFUSED if refused else StateName.PASSED
    return Completed(message=reasons or "every gate passed", data=not refused, name=name)


@task(task_run_name="register")
def register_model(params: Params) -> Any:
    """Register the artifacts as one bundle and one model version. Cached if this bundle is a version already."""
    done = register(bundles.assemble(params, PARAMS), params.register_)
    message = f"{done.name} version {done.version}"
    return Completed(message=message, data=done, name=None if done.created else StateName.CACHED)


@task(task_run_name="promote")
def promote_model(params: Params, registered: Registration) -> Any:
    """Promote the version if it beats the champion. Cached if it was judged before: a person may have decided since."""
    if not registered.passed:
        reason, name = "the gates refused it, the champion stays", StateName.SKIPPED
    elif registered.verdict is not None:
        reason, name = registered.verdict, StateName.CACHED
    else:
        name, done = promote_and_show(params, registered.version)
        reason = done.reason
    return Completed(message=reason, data=reason, name=name)


@task(task_run_name="report")
def publish_report(params: Params, version: str) -> Any:
    """Publish the report of the version, with what promotion decided. Cached if it was published so before."""
    before = paths.REPORTS / version / paths.REPORT_PAGE
    text = before.read_bytes() if before.is_file() else None
    page = reports.publish_or_warn(params, version)
    if page is None:
        return Completed(message="no report was published", data=None, name=StateName.SKIPPED)
    same = page.read_bytes() == text
    return Completed(message=str(page), data=reports.place(params, version), name=StateName.CACHED if same else None)


@flow(name="retrain")
def retrain(take: bool = True) -> Any:
    """Take what was delivered, bring every stage up to date, then gate, register, promote.

    The state is named Refused if a gate refuses the model.

    Args:
        take: False leaves the data as it is, even if there is a delivery.

    Raises:
        UnigrecError: another run is at work here, a stage failed, or MLflow does not answer.
    """
    with exclusive(paths.LOCK):
        params = load_params(PARAMS)
        seconds: dict[str, float | None] = {}
        # A delivery comes first: it changes the data, and may change the model that training starts from.
        if take and snapshot.reads_snapshots(params) and Path(params.snapshot.incoming).is_dir():
            _timed(seconds, "snapshot", take_delivery, params=params).result()
            params = load_params(PARAMS)
        seconds |= run_stages()
        # A refused model is registered too, so that people can look at it, but it is never promoted.
        passed = _timed(seconds, "gate decision", read_gates).result()
        registered = _timed(seconds, "register", register_model, params=params).result()
        verdict = _timed(seconds, "promote", promote_model, params=params, registered=registered).result()
        report = _timed(seconds, "publish", publish_report, params=params, version=registered.version).result()
        aliases = current_aliases(params.register_, registered.version)
        model = f"{registered.name} version {registered.version}"
        uri = tracking_uri(params.register_)
        summary = summarise(model, aliases, verdict, seconds=seconds, tracking_uri=uri, report=report)
        create_markdown_artifact(markdown(summary), key="retrain-summary", description=model)
        return Completed(message=model, data=summary, name=None if passed else StateName.REFUSED)


def run_stages() -> dict[str, float | None]:
    """Bring every stage up to date, in DVC's order. Returns seconds per stage; None: it was. Raises StageError."""
    graph = read_graph()
    stale = set(graph.stale)
    seconds: dict[str, float | None] = {}
    for stage in graph.order:
        print(f"{stage}: {'...' if stage in stale else 'cached'}", flush=True)
        _timed(seconds, stage, bring_up_to_date, stage=stage, stale=stage in stale).result()
        if stage in stale:
            stale |= graph.downstream[stage]
    return seconds


def _timed(seconds: dict[str, float | None], name: str, step: Any, **arguments: Any) -> State:
    """Run a task, store its seconds (None for a cached one) under `name`, and return its state."""
    began = time.monotonic()
    state: State = step(**arguments, return_state=True)
    seconds[name] = None if state.name == StateName.CACHED else time.monotonic() - began
    return state


def _report(state: Any) -> int:
    """Print the closing table and return the exit code. Raises the error that ended the run."""
    print_summary(state.result())
    return EXIT_REFUSED if state.name == StateName.REFUSED else EXIT_OK


def main() -> int:
    """Run the flow in this process. Returns an exit code of errors.py."""
    parser = argparse.ArgumentParser(prog="python -m flows.retrain", description=__doc__, allow_abbrev=False)
    parser.add_argument("--no-snapshot", action="store_true", help="train on the data as it is, take no delivery")
    parser.add_argument("--verbose", action="store_true", help="show every figure of every epoch")
    asked = parser.parse_args()
    if asked.verbose:
        os.environ[VERBOSE_VARIABLE] = "1"  # for the stages, which DVC starts
    return run_here(lambda: _report(retrain(take=not asked.no_snapshot, return_state=True)))


if __name__ == "__main__":
    sys.exit(main())
