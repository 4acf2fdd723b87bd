"""The scheduled job: `flows.retrain` in a git worktree of its own, next to people at work. `python -m flows.scheduled`

worktree.py makes the worktree, and commits the run's params.yaml and dvc.lock. shared.py links what the worktree shares
with the repository. docs/operations.md says how people take over the result.
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
from unigrec.base.errors import (
    EXIT_BAD_INPUT,
    EXIT_BROKEN,
    EXIT_INVALID_DATA,
    EXIT_OK,
    EXIT_REFUSED,
    BusyError,
    UnigrecError,
)
from unigrec.base.files import sha256
from unigrec.base.git import DVC_LOCK, PARAMS, without_git
from unigrec.base.lock import exclusive
from unigrec.base.paths import Artifacts
from unigrec.registry.tracking import URI_VARIABLE

TIDYING_SECONDS = 60.0  # housekeeping holds the lock for seconds: wait, instead of missing a night
# Where MLflow puts the artifacts of experiments that it makes. Its default is the worktree, which is removed.
ARTIFACTS_VARIABLE, ARTIFACTS_FOLDER = "_MLFLOW_SERVER_ARTIFACT_ROOT", "mlruns"
RAN = re.compile(r"\s+Running stage '(\w+)'")
REFUSED = re.compile(r"Gates\s+\d+ of \d+ refused")  # of the closing table
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Place(NamedTuple):
    """root: the repository, absolute. tree: its worktree. environment: for commands that run the worktree's code."""

    root: Path
    tree: Path
    environment: dict[str, str]


class Settings(NamedTuple):
    """What the run changes in the committed params.yaml: the options of `unigrec configure`."""

    profile: str | None
    data: str | None
    overrides: list[str]


@flow(name="scheduled-retrain")
def scheduled_retrain(profile: str | None = None, data: str | None = None, overrides: list[str] | None = None) -> Any:
    """Retrain in a worktree of the committed code, and commit the run's params.yaml and dvc.lock on a branch.

    The state is named Refused if a gate refuses the model, Unchanged if no stage had anything to do, and Skipped if
    another scheduled run is at work.

    Args:
        profile, data, overrides: options of `unigrec configure` (`--profile`, `--data`, `--set`). They change the
            committed params.yaml for this run only.

    Raises:
        UnigrecError: there is no repository, the settings or the data are invalid, a stage failed, or MLflow does not
            answer. Its exit_code is one of errors.py.
    """
    emit = emitter()
    root = worktree.repository(Path.cwd())
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(root / worktree.LOCK, TIDYING_SECONDS))
        except BusyError as error:
            emit(f"a scheduled run is at work already: {error}")
            return Completed(message=str(error), data=EXIT_OK, name=StateName.SKIPPED)
        return _run(root, Settings(profile, data, overrides or []), emit)


def _run(root: Path, settings: Settings, emit: Emit) -> Any:
    # The run begins from the committed code, and from what runs found out that nobody has merged yet.
    kept = worktree.keep_start(root)  # that of a killed run
    base = worktree.base_of(root)
    before = worktree.inherit(root, base.commit)
    begins = f"{base.ref}, commit {base.commit[:12]}"
    emit(f"training on {begins}, after {before.commit[:12]}" if before.commit else f"training on {begins}")
    if kept:
        emit(f"a run before did not finish; where it starts from is on branch {kept}")
    # It works in its own worktree, which is removed however the run ends.
    try:
        place = Place(root, worktree.make(root, base.commit, before), {})
        place = place._replace(environment=_environment(place))
        _settle(place, settings, before.start, emit=emit)
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


def _settle(place: Place, settings: Settings, start: str | None, emit: Emit) -> None:
    """Prepare the worktree's params.yaml and data. A delivery is taken into the repository's own data/."""
    shared.share_state(place.root, place.tree)
    shared.share_data(place.root, place.tree)
    shared.share_path(place.root, place.tree, "data", path=settings.data)
    options = ["--profile", settings.profile] if settings.profile else []
    options += ["--data", settings.data] if settings.data else []
    for setting in [f"warm_start.path={start}"] * (start is not None) + settings.overrides:
        options += ["--set", setting]
    if options:
        _command(place, ["unigrec.cli", "configure", *options], place.tree, emit=emit)
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
    """Run `unigrec snapshot` in the repository with the worktree's code and params, unless somebody trains there."""
    try:
        with exclusive(place.root / paths.LOCK):
            pass
    except BusyError as error:
        emit(f"no delivery is taken, the data stays as it is: {error}")
        return
    params = place.tree / PARAMS
    _command(place, ["unigrec.cli", "snapshot", "--params", str(params)], place.root, emit=emit)


def _retrain(place: Place, emit: Emit) -> tuple[list[str], bool]:
    """Run the whole job. Returns the stages that ran, and whether the gates refused the model."""
    ran: list[str] = []
    refused = False

    def read(line: str) -> None:
        nonlocal refused
        plain = COLOUR.sub("", line)
        found = RAN.match(plain)
        ran.extend(found.groups() if found else ())
        refused = refused or REFUSED.match(plain) is not None
        emit(line)

    if (place.tree / DVC_LOCK).is_file():
        # One command restores what DVC's cache holds, instead of one per stage. Stages make what it does not hold.
        checkout = [sys.executable, "-m", "dvc", "checkout", "--quiet", "--allow-missing"]
        run_streamed(checkout, lambda line: None, cwd=place.tree, environment=place.environment)
    job = ["flows.retrain", "--no-snapshot"]
    # Python ends with 1 too, if the code cannot be imported: without the table, nobody has refused anything.
    status = _command(place, job, place.tree, emit=read, allowed=EXIT_REFUSED)
    if status == EXIT_REFUSED and not refused:
        raise UnigrecError(f"python -m {' '.join(job)} ended with exit status {status}; see its lines above")
    return ran, refused


def _command(place: Place, module: list[str], folder: Path, emit: Emit, allowed: int = EXIT_OK) -> int:
    """Run a module of the worktree's code. Returns its exit status. Raises UnigrecError with its own error line."""
    words = ""

    def read(line: str) -> None:
        nonlocal words
        words = line.removeprefix("error: ") if line.startswith("error: ") else words
        emit(line)

    status = run_streamed([sys.executable, "-m", *module], read, cwd=folder, environment=place.environment)
    if status in (EXIT_OK, allowed):
        return status
    error = UnigrecError(words or f"python -m {' '.join(module)} ended with exit status {status}; see its lines above")
    error.exit_code = status if status in (EXIT_INVALID_DATA, EXIT_BROKEN) else EXIT_BAD_INPUT
    raise error


def _environment(place: Place) -> dict[str, str]:
    """Our environment, with the worktree's code first on the path and the repository's folder for artifacts."""
    # PREFECT__ variables describe the flow run of this process, not of the child.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT__")}
    ours = {"PYTHONPATH": os.pathsep.join([str(place.tree / "src"), str(place.tree)])}
    ours[ARTIFACTS_VARIABLE] = os.environ.get(ARTIFACTS_VARIABLE, str(place.root / ARTIFACTS_FOLDER))
    url = PREFECT_API_URL.value()
    return without_git(kept) | ours | ({"PREFECT_API_URL": url} if url else {})


def _message(place: Place, base: str, refused: bool) -> str:
    """The message of the run's commit."""
    snapshot = files.read_json(place.tree / Artifacts().source).get("snapshot", {}).get("id") or "none"
    lines = [f"code: {base}", f"dvc.lock: {sha256(place.tree / DVC_LOCK)}", f"snapshot: {snapshot}"]
    return f"Scheduled retraining{', refused by the gates' if refused else ''}\n\n" + "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the flow in this process. Returns an exit code of errors.py."""
    parser = argparse.ArgumentParser(prog="python -m flows.scheduled", description=__doc__, allow_abbrev=False)
    parser.add_argument("--profile", help="as unigrec configure --profile, for this run")
    parser.add_argument("--data", help="as unigrec configure --data, for this run")
    parser.add_argument("--set", action="append", dest="overrides", metavar="KEY=VALUE", help="as --set there")
    asked = parser.parse_args(arguments)

    def job() -> int:
        state: Any = scheduled_retrain(asked.profile, asked.data, asked.overrides, return_state=True)
        return state.result()

    return run_here(job)


if __name__ == "__main__":
    sys.exit(main())
