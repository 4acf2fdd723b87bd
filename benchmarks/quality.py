"""`python -m benchmarks.quality`: the ladder of experiments (infra/ladder.yaml) over several seeds, into one table.

Kill it at any moment and call it again: finished steps are not done again, an unfinished one goes on. docs/quality.md.
"""

from __future__ import annotations

import argparse
import math
import shlex
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from unigrec.errors import EXIT_OK, BusyError, UnigrecError
from unigrec.process import keep_quiet

keep_quiet()

from benchmarks.quality_runs import Session, Step, code_version, load_data, rung_steps  # noqa: E402
from benchmarks.quality_table import collect, write_table  # noqa: E402
from unigrec.config import Params, parse_params  # noqa: E402
from unigrec.distributed import leave_process_group  # noqa: E402
from unigrec.profiles import PROFILES, leaves, parse_setting, profile_values, read_mapping, with_values  # noqa: E402
from unigrec.stages import training_device  # noqa: E402
from unigrec.training.checkpoint import Stopped  # noqa: E402

ROOT = Path(__file__).parents[1]
LADDER = Path("infra/ladder.yaml")
EXIT_FAILED = 1
POLL_SECONDS = 2.0  # between looks at what another process is doing


class Rung(NamedTuple):
    """One experiment: what it changes in params, and what it is compared with."""

    name: str
    description: str
    params: dict[str, Any]  # dotted keys
    against: str | None
    published: dict[str, float]


class Stop:
    """Whether to stop: time is over, or a signal asked for it. A second signal ends the process at once."""

    def __init__(self, minutes: float | None):
        self.at = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.signal = 0

    def __call__(self) -> bool:
        return bool(self.signal) or time.monotonic() >= self.at

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        print("stopping at the next step; once more ends the process at once", file=sys.stderr, flush=True)
        self.signal = number
        signal.signal(number, signal.SIG_DFL)


def read_ladder(path: Path) -> list[Rung]:
    """The rungs in their order. Raises UnigrecError, naming the rung."""
    rungs: list[Rung] = []
    for name, entry in read_mapping(path).items():
        unknown = set(entry) - {"description", "published", "against", "params"}
        against = entry.get("against", rungs[-1].name if rungs else None)
        if unknown or (rungs and against not in {rung.name for rung in rungs}):
            wrong = f"unknown key {sorted(unknown)[0]!r}" if unknown else f"against: no rung {against!r} before it"
            raise UnigrecError(f"{path}: {name}: {wrong}")
        changes = dict(leaves(entry.get("params", {})))
        rungs.append(Rung(str(name), entry.get("description", ""), changes, against, entry.get("published", {})))
    return rungs


def rung_params(root: Path, profile: str, rung: Rung, settings: list[str], seed: int) -> Params:
    """params.yaml, then the profile, then the rung, then the settings. Raises UnigrecError."""
    wanted = profile_values(root / PROFILES, profile) | rung.params | dict(map(parse_setting, settings))
    values = with_values(read_mapping(root / "params.yaml"), wanted | {"profile": profile, "seed": seed})
    return parse_params(values, f"{rung.name}")


def work_through(steps: list[Step], session: Session, after_rung: Any) -> list[str]:
    """Do all that can be done. Returns why steps failed. Raises Stopped."""
    pending = {step.folder: step for step in steps if not step.done}  # a shared step comes once
    failed: dict[Path, str] = {}
    while pending:
        moved = False
        for step in list(pending.values()):
            if session.stop():
                raise Stopped
            broken = [failed[folder] for folder in step.needs if folder in failed]
            if broken:
                failed[step.folder] = broken[0]
            elif not step.done:
                if any(folder in pending for folder in step.needs):
                    continue
                try:
                    step.perform(session)
                except BusyError:
                    continue
                except UnigrecError as error:
                    failed[step.folder] = f"{step.name}: {error}"
                    print(f"error: {failed[step.folder]}", file=sys.stderr, flush=True)
                else:
                    after_rung(step)
            del pending[step.folder]
            moved = True
        if pending and not moved:
            time.sleep(POLL_SECONDS)
    return sorted(set(failed.values()))


def left(plan: dict[tuple[int, str], list[Step]]) -> str:
    """Which rungs are not finished, seed by seed; empty when all are."""
    unfinished: dict[int, list[str]] = {}
    for (seed, rung), steps in plan.items():
        if not all(step.done for step in steps):
            unfinished.setdefault(seed, []).append(rung)
    return "; ".join(f"seed {seed}: {', '.join(rungs)}" for seed, rungs in unfinished.items())


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.quality", description=__doc__)
    add = parser.add_argument
    add("--artifacts", type=Path, required=True, help="a project's artifacts folder; prepare and embed are read")
    add("--profile", required=True, help="of infra/profiles: small, paper, ...")
    add("--out", type=Path, required=True, help="folder of results; several processes may fill one")
    add("--rungs", help="names of infra/ladder.yaml, with commas; all where left out")
    add("--seeds", default="1,2,3", help="with commas (default: 1,2,3)")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="section.key=value, over the rung's")
    add("--minutes", type=float, help="stop in order after so long; the same command goes on")
    add("--table", action="store_true", help="only the table of what is there already")
    return parser.parse_args(given)


def chosen_rungs(ladder: list[Rung], names: str | None) -> list[Rung]:
    """Rungs by name, in the ladder's order. Raises UnigrecError."""
    if names is None:
        return ladder
    wanted = [name.strip() for name in names.split(",")]
    unknown = set(wanted) - {rung.name for rung in ladder}
    if unknown:
        known = ", ".join(rung.name for rung in ladder)
        raise UnigrecError(f"--rungs {names}: no rung {sorted(unknown)[0]!r}; there are {known}")
    return [rung for rung in ladder if rung.name in wanted]


def seeds_of(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UnigrecError(f"--seeds {text}: expected whole numbers with commas, for example 1,2,3") from error


def run(given: list[str]) -> int:
    options = arguments(given)
    stop, ladder, seeds = Stop(options.minutes), read_ladder(ROOT / LADDER), seeds_of(options.seeds)
    data = load_data(options.artifacts)

    def params_of(rung: Rung, seed: int) -> Params:
        return rung_params(ROOT, options.profile, rung, options.set, seed)

    def table() -> str:
        return write_table(options.out, collect(options.out, ladder, params_of, data, seeds))

    def after(step: Step) -> None:
        if step.folder.name == "evaluate":
            table()

    plan = {
        (seed, rung.name): rung_steps(options.out, rung.name, params_of(rung, seed), data)
        for seed in seeds
        for rung in chosen_rungs(ladder, options.rungs)
    }
    errors: list[str] = []
    if not options.table:
        session = Session(data, training_device(), stop, code_version())
        stop.listen()
        try:
            errors = work_through([step for steps in plan.values() for step in steps], session, after)
        except Stopped:
            pass
        finally:
            leave_process_group()
    print(table())
    unfinished = left(plan)
    for error in errors:
        print(f"failed: {error}")
    if unfinished:
        command = shlex.join(["python", "-m", "benchmarks.quality", *(part for part in given if part != "--table")])
        print(f"left: {unfinished}; go on with: {command}")
    if stop.signal:
        return 128 + stop.signal
    return EXIT_FAILED if errors else EXIT_OK


def main() -> None:
    try:
        sys.exit(run(sys.argv[1:]))
    except UnigrecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
