"""The scheduled job, beside people: `flows.retrain` in a git worktree of its own. `python -m flows.scheduled`.

What a worktree is made of, and what becomes of a run's params.yaml and dvc.lock: worktree.py. What it shares with the
repository: shared.py. docs/operations.md tells people what to do with it.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from prefect import flow
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed

from flows.checkout import shared, worktree
from flows.prefect_server.output import Emit, emitter
from flows.prefect_server.server import run_here
from flows.stages.processes import run_streamed
from flows.states import StateName
from unigrec.base import files, paths
from unigrec.base.errors import EXIT_BAD_INPUT, EXIT_INVALID_DATA, EXIT_OK, EXIT_REFUSED, BusyError, UnigrecError
from unigrec.base.files import sha256
from unigrec.base.git import DVC_LOCK, PARAMS, without_git
from unigrec.base.lock import exclusive
from unigrec.base.paths import Artifacts
from unigrec.registry.tracking import URI_VARIABLE

TIDYING_SECONDS = 60.0  # housekeeping holds the lock for seconds: no reason to miss a night
# Where MLflow puts the artifacts of experiments that it makes; left to itself, into the worktree that made them.
ARTIFACTS_VARIABLE, ARTIFACTS_FOLDER = "_MLFLOW_SERVER_ARTIFACT_ROOT", "mlruns"
RAN = re.compile(r"\s+Running stage '(\w+)'")


class Place(NamedTuple):
    """root: the repository, absolute. tree: the worktree in it. environment: of what runs with the worktree's code."""

    root: Path
    tree: Path
    environment: dict[str, str]


@flow(name="scheduled-retrain")
def scheduled_retrain(profile: str | None = None, data: str | None = None, overrides: list[str] | None = None) -> Any:
    """Retrain in a worktree of what is committed, and commit params.yaml and dvc.lock of the run on a branch.

    The state is named Refused where a gate said no, Unchanged where no stage had anything to do, and Skipped where
    another scheduled run is at work.

    Args:
        profile, data, overrides: as `unigrec configure` takes them (`--profile`, `--data`, `--set`), over the committed
            params.yaml, for this run.

    Raises:
        UnigrecError: there is no repository, the settings or the data are no good, a stage failed, MLflow does not
            answer. Its exit_code is that of errors.py.
    """
    emit = emitter()
    root = worktree.repository(Path.cwd())
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(root / worktree.LOCK, TIDYING_SECONDS))
        except BusyError as error:
            emit(f"a scheduled run is at work already: {error}")
            return Completed(message=str(error), data=EXIT_OK, name=StateName.SKIPPED)
        return _run(root, profile, data, overrides or [], emit)


def _run(root: Path, profile: str | None, data: str | None, overrides: list[str], emit: Emit) -> Any:
    kept = worktree.keep_start(root)  # of a run that was killed
    base = worktree.base_of(root)
    before = worktree.inherit(root, base.commit)
    begins = f"{base.ref}, commit {base.commit[:12]}"
    emit(f"training on {begins}, after {before.commit[:12]}" if before.commit else f"training on {begins}")
    if kept:
        emit(f"a run before did not finish; where it starts from is on branch {kept}")
    try:
        place = Place(root, worktree.make(root, base.commit, before), {})
        place = place._replace(environment=_environment(place))
        _settle(place, profile, data, overrides, before.start, emit)
        ran, refused = _retrain(place, emit)
        branch = worktree.record(root, before.commit, _message(place, base.commit, refused))
    except BaseException:
        worktree.keep_start(root)
        raise
    finally:
        worktree.remove(root)
    said = [f"stages that ran: {', '.join(ran)}" if ran else "nothing to train: no stage had anything to do"]
    said += [f"params.yaml and dvc.lock are on branch {branch}"] if branch else []
    said += ["the gates refused the model"] if refused else []
    emit("; ".join(said))
    name = StateName.REFUSED if refused else None if ran else StateName.UNCHANGED
    return Completed(message="; ".join(said), data=EXIT_REFUSED if refused else EXIT_OK, name=name)


def _settle(
    place: Place, profile: str | None, data: str | None, overrides: list[str], start: str | None, emit: Emit
) -> None:
    """params.yaml and data as this run is to have them; what was delivered is taken in the repository's own data/."""
    shared.share_state(place.root, place.tree)
    shared.share_data(place.root, place.tree)
    shared.share_path(place.root, place.tree, "data", data)
    options = ["--profile", profile] if profile else []
    options += ["--data", data] if data else []
    for setting in [f"warm_start.path={start}"] * (start is not None) + overrides:
        options += ["--set", setting]
    if options:
        _command(place, ["unigrec.cli", "configure", *options], place.tree, emit)
    if _has_delivery(place):
        _take_delivery(place, emit)
        shared.share_data(place.root, place.tree)
    shared.share_named(place.root, place.tree, os.environ.get(URI_VARIABLE))


def _has_delivery(place: Place) -> bool:
    params = shared.read_params(place.tree)
    ingest, incoming = params.get("ingest", {}), params.get("snapshot", {}).get("incoming")
    reads = ingest.get("source") == "folder" and Path(ingest.get("path", "")) == paths.CURRENT
    return reads and incoming is not None and (place.root / incoming).is_dir()


def _take_delivery(place: Place, emit: Emit) -> None:
    """`unigrec snapshot` in the repository, with the worktree's code and params; not while somebody trains there."""
    try:
        with exclusive(place.root / paths.LOCK):
            pass
    except BusyError as error:
        emit(f"no delivery is taken, the data stays as it is: {error}")
        return
    params = place.tree / PARAMS
    _command(place, ["unigrec.cli", "snapshot", "--params", str(params)], place.root, emit)


def _retrain(place: Place, emit: Emit) -> tuple[list[str], bool]:
    """The whole job. Returns the stages that ran, and whether the gates refused the model."""
    ran: list[str] = []

    def read(line: str) -> None:
        found = RAN.match(line)
        ran.extend(found.groups() if found else ())
        emit(line)

    if (place.tree / DVC_LOCK).is_file():
        # Outputs that are there need no process each. Those that are not in the cache are made by their stages.
        checkout = [sys.executable, "-m", "dvc", "checkout", "--quiet", "--allow-missing"]
        run_streamed(checkout, lambda line: None, place.tree, place.environment)
    refused = _command(place, ["flows.retrain", "--no-snapshot"], place.tree, read, EXIT_REFUSED) == EXIT_REFUSED
    return ran, refused


def _command(place: Place, module: list[str], folder: Path, emit: Emit, allowed: int = EXIT_OK) -> int:
    """Run a module of the worktree's code. Returns its exit status; raises UnigrecError with its last words."""
    words = ""

    def read(line: str) -> None:
        nonlocal words
        words = line.removeprefix("error: ") if line.startswith("error: ") else words
        emit(line)

    status = run_streamed([sys.executable, "-m", *module], read, folder, place.environment)
    if status in (EXIT_OK, allowed):
        return status
    error = UnigrecError(words or f"python -m {' '.join(module)} ended with exit status {status}; see its lines above")
    error.exit_code = status if status in (EXIT_BAD_INPUT, EXIT_INVALID_DATA) else EXIT_BAD_INPUT
    raise error


def _environment(place: Place) -> dict[str, str]:
    """Ours, with the worktree's code before any other, and the repository's places where a variable decides."""
    # What Prefect tells a flow run's process about itself is about this one alone.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT__")}
    ours = {"PYTHONPATH": os.pathsep.join([str(place.tree / "src"), str(place.tree)])}
    ours[ARTIFACTS_VARIABLE] = os.environ.get(ARTIFACTS_VARIABLE, str(place.root / ARTIFACTS_FOLDER))
    url = PREFECT_API_URL.value()
    return without_git(kept) | ours | ({"PREFECT_API_URL": url} if url else {})


def _message(place: Place, base: str, refused: bool) -> str:
    snapshot = files.read_json(place.tree / Artifacts().source).get("snapshot", {}).get("id") or "none"
    lines = [f"code: {base}", f"dvc.lock: {sha256(place.tree / DVC_LOCK)}", f"snapshot: {snapshot}"]
    return f"Scheduled retraining{', refused by the gates' if refused else ''}\n\n" + "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the flow here and now; the exit code is that of errors.py."""
    parser = argparse.ArgumentParser(prog="python -m flows.scheduled", description=__doc__, allow_abbrev=False)
    parser.add_argument("--profile", help="as unigrec configure --profile, for this run")
    parser.add_argument("--data", help="likewise")
    parser.add_argument("--set", action="append", dest="overrides", metavar="KEY=VALUE", help="likewise")
    asked = parser.parse_args(arguments)

    def job() -> int:
        state: Any = scheduled_retrain(asked.profile, asked.data, asked.overrides, return_state=True)
        return state.result()

    return run_here(job)


if __name__ == "__main__":
    sys.exit(main())
