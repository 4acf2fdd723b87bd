"""The whole job: the stages of dvc.yaml in its own order, then gate, register, promote. `python -m flows.retrain`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, State

from flows.prefect_server.output import emitter
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
from unigrec.commands import bundles, snapshot
from unigrec.config.schema import Params, load_params
from unigrec.pipeline.summary import markdown, print_summary, summarise
from unigrec.registry.tracking import tracking_uri
from unigrec.registry.versions import Registration, current_aliases, register

RETRIES = 2
RETRY_SECONDS = 5


def was_killed(task: Any, run: Any, state: State) -> bool:
    """Whether a stage is worth another try: only when a signal ended it. Bad input and bad data stay what they are."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageError) and error.killed


@task(task_run_name="{stage}", retries=RETRIES, retry_delay_seconds=RETRY_SECONDS, retry_condition_fn=was_killed)
def bring_up_to_date(stage: str, stale: bool) -> Any:
    """One stage of dvc.yaml. Its state is named Cached where its command had no reason to run."""
    try:
        ran = stale and run_stage(stage, emitter("  "))
    except StageError as error:
        if error.killed:
            read_graph()  # puts right what the killed DVC was just writing, for the next try
        raise
    if ran:
        return Completed(message=f"{stage} ran")
    return Completed(message=f"{stage} is up to date", name=StateName.CACHED)


@task(task_run_name="snapshot")
def take_delivery(params: Params) -> Any:
    """What was delivered, as the next snapshot. Cached where it brings nothing new."""
    taken = snapshot.snapshot(params, PARAMS)
    print(taken.said, flush=True)
    return Completed(message=taken.said, name=None if taken.new else StateName.CACHED)


@task(task_run_name="gate")
def read_gates() -> Any:
    """What the gates decided. A refusal is a result, not a failure."""
    gates = files.read_json(Artifacts().decision)["gates"]
    refused = [gate for gate in gates if not gate["passed"] and not gate.get("informational", False)]
    reasons = "; ".join(f"{gate['name']}: {gate['reason']}" for gate in refused)
    return Completed(message=reasons or "every gate passed", name=StateName.REFUSED if refused else StateName.PASSED)


@task(task_run_name="register")
def register_model(params: Params) -> Any:
    """The artifacts as one bundle and one model version. Cached where this very bundle is a version already."""
    done = register(bundles.assemble(params, PARAMS), params.register_)
    message = f"{done.name} version {done.version}"
    return Completed(message=message, data=done, name=None if done.created else StateName.CACHED)


@task(task_run_name="promote")
def promote_model(params: Params, registered: Registration) -> Any:
    """Champion, if it passes beside the old one. Cached where it was judged before: a person may have decided since."""
    if not registered.passed:
        reason, name = "the gates refused it, the champion stays", StateName.SKIPPED
    elif registered.verdict is not None:
        reason, name = registered.verdict, StateName.CACHED
    else:
        name, done = promote_and_show(params, registered.version)
        reason = done.reason
    return Completed(message=reason, data=reason, name=name)


@flow(name="retrain")
def retrain(take: bool = True) -> Any:
    """Take what was delivered, bring every stage up to date, then gate, register, promote.

    The state is named Refused where a gate said no.

    Args:
        take: False leaves the data as it is, whatever was delivered.

    Raises:
        UnigrecError: another run is at work here, a stage failed, or MLflow does not answer.
    """
    with exclusive(paths.LOCK):
        params = load_params(PARAMS)
        seconds: dict[str, float | None] = {}
        if take and snapshot.reads_snapshots(params) and Path(params.snapshot.incoming).is_dir():
            _timed(seconds, "snapshot", take_delivery, params).result()
            params = load_params(PARAMS)  # a new snapshot may be trained on from the champion
        seconds |= run_stages()
        passed = _timed(seconds, "gate decision", read_gates).name == StateName.PASSED
        registered = _timed(seconds, "register", register_model, params).result()
        verdict = _timed(seconds, "promote", promote_model, params, registered).result()
        aliases = current_aliases(params.register_, registered.version)
        model = f"{registered.name} version {registered.version}"
        summary = summarise(model, aliases, verdict, seconds, tracking_uri(params.register_))
        create_markdown_artifact(markdown(summary), key="retrain-summary", description=model)
        return Completed(message=model, data=summary, name=None if passed else StateName.REFUSED)


def run_stages() -> dict[str, float | None]:
    """Every stage in the order of dvc.yaml: its seconds, or None where it was up to date. Raises StageError."""
    graph = read_graph()
    stale = set(graph.stale)
    seconds: dict[str, float | None] = {}
    for stage in graph.order:
        print(f"{stage}: {'...' if stage in stale else 'cached'}", flush=True)
        _timed(seconds, stage, bring_up_to_date, stage, stage in stale).result()
        if stage in stale:
            stale |= graph.downstream[stage]
    return seconds


def _timed(seconds: dict[str, float | None], name: str, step: Any, *arguments: Any) -> State:
    """Run a task, note its seconds (None for a cached one), and return its state."""
    began = time.monotonic()
    state: State = step(*arguments, return_state=True)
    seconds[name] = None if state.name == StateName.CACHED else time.monotonic() - began
    return state


def _report(state: Any) -> int:
    """The closing table, and the exit code. Raises what ended the run."""
    print_summary(state.result())
    return EXIT_REFUSED if state.name == StateName.REFUSED else EXIT_OK


def main() -> int:
    """Run the flow here and now; the exit code is that of errors.py."""
    parser = argparse.ArgumentParser(prog="python -m flows.retrain", description=__doc__, allow_abbrev=False)
    parser.add_argument("--no-snapshot", action="store_true", help="train on the data as it is, take no delivery")
    asked = parser.parse_args()
    return run_here(lambda: _report(retrain(take=not asked.no_snapshot, return_state=True)))


if __name__ == "__main__":
    sys.exit(main())
