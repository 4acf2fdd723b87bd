"""`python -m benchmarks.quality`: the ladder of experiments (infra/ladder.yaml) over several seeds, as one table.

You may kill it at any moment. The same command skips finished steps and resumes an unfinished one. docs/quality.md.
"""

from __future__ import annotations

import argparse
import math
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from unigrec.base.errors import EXIT_OK, BusyError, UnigrecError
from unigrec.base.process import keep_quiet, training_device, use_huge_pages

STARTED = time.monotonic()  # --minutes counts the imports too
if __name__ == "__main__":
    use_huge_pages()  # as a stage does
keep_quiet()

from benchmarks.quality.ladder import LADDER, Rung, chosen_rungs, profile_params, read_ladder, rung_params  # noqa: E402
from benchmarks.quality.runs import SHARED, rung_steps  # noqa: E402
from benchmarks.quality.steps import Session, Step, code_version, load_data  # noqa: E402
from benchmarks.quality.table import make_table  # noqa: E402
from unigrec.config.schema import Params  # noqa: E402
from unigrec.core.distributed import leave_process_group  # noqa: E402
from unigrec.core.training.checkpoint import Stopped  # noqa: E402

ROOT = Path(__file__).parents[2]
EXIT_FAILED = 1
POLL_SECONDS = 2.0  # between looks at what another process is doing


class Stop:
    """True if it is time to stop: the minutes are over, or a signal came. A second signal ends the process at once."""

    def __init__(self, minutes: float | None):
        self.at = math.inf if minutes is None else STARTED + 60 * minutes
        self.signal = 0

    def __call__(self) -> bool:
        return bool(self.signal) or time.monotonic() >= self.at

    @contextmanager
    def listening(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        print("stopping at the next step; once more ends the process at once", file=sys.stderr, flush=True)
        self.signal = number
        signal.signal(number, signal.SIG_DFL)


def work_through(steps: list[Step], session: Session, after: Callable[[Step], None]) -> list[str]:
    """Perform all steps; wait for steps that another process performs. Returns why steps failed. Raises Stopped."""
    pending = {step.folder: step for step in steps}  # a shared step is there once
    failed: dict[Path, str] = {}
    while pending:
        before = len(pending)
        for step in list(pending.values()):
            if not step.done:
                if session.stop():
                    raise Stopped
                reasons = [failed[folder] for folder in step.needs if folder in failed]
                if reasons:
                    failed[step.folder] = reasons[0]
                elif not _attempt(step, pending, session, failed, after):
                    continue
            del pending[step.folder]
        if len(pending) == before:
            time.sleep(POLL_SECONDS)
    return sorted(set(failed.values()))


def _attempt(
    step: Step, pending: dict[Path, Step], session: Session, failed: dict[Path, str], after: Callable[[Step], None]
) -> bool:
    """Perform a step, or note why it failed. False if it must wait for other steps or for another process."""
    if any(folder in pending for folder in step.needs):
        return False
    try:
        step.perform(session)
    except BusyError:
        return False
    except UnigrecError as error:
        failed[step.folder] = f"{step.name}: {error}"
        print(f"error: {failed[step.folder]}", file=sys.stderr, flush=True)
    else:
        after(step)
    return True


def left(plan: dict[tuple[int, str], list[Step]]) -> str:
    """Names of unfinished rungs per seed; empty if all are finished."""
    unfinished: dict[int, list[str]] = {}
    for (seed, rung), steps in plan.items():
        if not all(step.done for step in steps):
            unfinished.setdefault(seed, []).append(rung)
    return "; ".join(f"seed {seed}: {', '.join(rungs)}" for seed, rungs in unfinished.items())


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.quality", description=__doc__)
    add = parser.add_argument
    add(
        "--artifacts",
        type=Path,
        required=True,
        help="a project's artifacts folder; the outputs of prepare and embed are read",
    )
    add("--profile", required=True, help="of infra/profiles: small, paper, ...")
    add("--out", type=Path, required=True, help="folder of results; several processes may fill one")
    add("--rungs", help="names of infra/ladder.yaml, separated by commas (default: all)")
    add("--teacher", action="store_true", help="train and rank the teacher and the baselines, and nothing else")
    add("--seeds", default="1,2,3", help="separated by commas (default: 1,2,3)")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="section.key=value, over the rung's")
    add("--minutes", type=float, help="stop in order after this time; the same command resumes")
    add("--table", action="store_true", help="only print the table of the finished results")
    return parser.parse_args(given)


def seeds_of(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UnigrecError(f"--seeds {text}: expected whole numbers with commas, for example 1,2,3") from error


def run(given: list[str]) -> int:
    options = arguments(given)
    stop, ladder, seeds = Stop(options.minutes), read_ladder(ROOT / LADDER), seeds_of(options.seeds)
    data, values = load_data(options.artifacts), profile_params(ROOT, options.profile)

    def params_of(rung: Rung, seed: int) -> Params:
        return rung_params(values, rung, options.set, seed)

    def table() -> str:
        return make_table(options.out, ladder, params_of, data, seeds)

    def after(step: Step) -> None:
        if step.folder.name == "evaluate":
            try:
                table()
            except UnigrecError as error:
                print(f"no table yet: {error}", file=sys.stderr, flush=True)

    plan = {
        (seed, rung.name): rung_steps(options.out, rung.name, params_of(rung, seed), data)
        for seed in seeds
        for rung in chosen_rungs(ladder, options.rungs)
    }
    errors: list[str] = []
    if not options.table:
        session = Session(data, training_device(), stop, code_version())
        steps = [step for of_rung in plan.values() for step in (of_rung[:SHARED] if options.teacher else of_rung)]
        with stop.listening(), suppress(Stopped):
            errors = work_through(steps, session, after)
        leave_process_group()
    print(table())
    unfinished = "" if options.teacher else left(plan)
    for error in errors:
        print(f"failed: {error}")
    if unfinished:
        command = shlex.join(["python", "-m", "benchmarks.quality", *(part for part in given if part != "--table")])
        print(f"left: {unfinished}; go on with: {command}")
    if stop.signal:
        return 128 + stop.signal
    return EXIT_FAILED if errors else EXIT_OK


def as_command(run: Callable[[list[str]], int]) -> None:
    """End this process with the exit code that `run` returns; an error that a person can fix is printed as one line."""
    try:
        sys.exit(run(sys.argv[1:]))
    except UnigrecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    as_command(run)
