"""Tools of the speed benchmark: timings of rounds, fresh processes with their peak memory, tables.

A part of the benchmark is a module with `run(options) -> list[Table]`. The part itself computes nothing. The measured
work runs in fresh processes (`in_child`, `run_command`, `held`), so that no measurement changes the memory, threads or
settings of another.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from unigrec.base.process import keep_quiet

ROOT = Path(__file__).parents[2]
# Runs a command and writes what its processes used. It is small, because a child's peak is never below its parent's.
_METER = """
import json, resource, subprocess, sys, time
from unigrec.base.process import die_with_parent
die_with_parent()
started = time.monotonic()
code = subprocess.call(sys.argv[2:], preexec_fn=die_with_parent)
wall, used = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    json.dump([code, wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024], file)
"""


@dataclass(frozen=True)
class Options:
    """Options of the command line.

    Attributes:
        quick: use tiny sizes that take seconds. This checks that a part runs; the figures mean nothing.
        artifacts: artifacts folder of a project with the outputs of `prepare` and `embed`. None: generated data of the
            same shape.
    """

    out: Path
    quick: bool = False
    artifacts: Path | None = None


@dataclass
class Table:
    """Rows, column -> value, to print and to save as JSON. A column that a row lacks stays empty.

    Columns come in the order of their first appearance.
    """

    title: str
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"columns": list(dict.fromkeys(column for row in self.rows for column in row))}


@dataclass
class Timing:
    """Seconds of the rounds of one callable, and its results."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)

    def add(self, result: Any, cpu: float, wall: float) -> None:
        self.cpu.append(cpu)
        self.wall.append(wall)
        self.results.append(result)

    def cells(self, per: float = 1.0, unit: str = "ms") -> dict[str, float]:
        """Columns of a row: median, minimum and maximum time of a round, divided by `per`."""
        scale = {"s": 1.0, "ms": 1e3}[unit] / per
        return {
            f"CPU {unit}": median(self.cpu) * scale,
            "min": min(self.cpu) * scale,
            "max": max(self.cpu) * scale,
            f"wall {unit}": median(self.wall) * scale,
        }


class Ratio(NamedTuple):
    """CPU time of a slow timing over that of a fast one."""

    of_medians: float
    least: float  # over the rounds
    most: float


class Usage(NamedTuple):
    """What a finished command used: time of all its processes, peak memory of the largest one."""

    code: int
    wall: float  # seconds, including its start
    cpu: float  # seconds, user and system
    peak: int  # bytes


def ratio(slow: Timing, fast: Timing) -> Ratio:
    """Ratio of CPU times: of the medians, and the extremes over the rounds."""
    rounds = [a / b for a, b in zip(slow.cpu, fast.cpu, strict=True)]
    return Ratio(median(slow.cpu) / median(fast.cpu), min(rounds), max(rounds))


def say(text: str) -> None:
    """Print progress to standard error."""
    print(text, file=sys.stderr, flush=True)


def milliseconds(task: Callable[[], object]) -> float:
    """CPU time of this process for a task."""
    began = time.process_time()
    task()
    return 1e3 * (time.process_time() - began)


def in_child(function: Callable[..., Any], threads: int = 1, **arguments: Any) -> tuple[Any, Usage]:
    """Call a function of a module in a fresh Python process.

    Args:
        function: a top-level function that returns JSON values. threads: threads of torch and OpenMP. arguments: JSON
            values.

    Returns:
        The result, and what the process used.

    Raises:
        RuntimeError: the process failed. Its error message is on standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        call = json.dumps([function.__module__, function.__name__, arguments, threads, str(result)])
        command = [sys.executable, "-m", "benchmarks.speed.harness", call]
        usage = run_command(command, threads, PYTHONPATH=import_path())
        if usage.code:
            raise RuntimeError(f"{function.__module__}.{function.__name__}{arguments} ended with code {usage.code}")
        return json.loads(result.read_text()), usage


def import_path() -> str:
    """The PYTHONPATH with which a child process finds the modules of this process."""
    return os.pathsep.join(filter(None, sys.path))


def loaded(module: str, name: str, threads: int) -> Callable[..., Any]:
    """Import a function or class, in a fresh process that has not imported torch yet."""
    keep_quiet()
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    if torch := sys.modules.get("torch"):  # if torch is imported later, it reads OMP_NUM_THREADS itself
        torch.set_num_threads(threads)
    return found


def run_command(
    command: Sequence[str], threads: int = 1, folder: Path = ROOT, quiet: bool = False, **environment: str
) -> Usage:
    """Run a command to its end. quiet: discard its output."""
    with tempfile.TemporaryDirectory() as temporary:
        result = Path(temporary) / "usage.json"
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        environment = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": paths, **environment}
        subprocess.run(
            [sys.executable, "-S", "-c", _METER, str(result), *command],
            cwd=folder,
            env=os.environ | environment,
            stdout=subprocess.DEVNULL if quiet else sys.stderr,
            stderr=subprocess.DEVNULL if quiet else None,
            check=True,
        )
        return Usage(*json.loads(result.read_text()))


def _child(call: str) -> None:
    """Run in the child process of `in_child`: call the function and write its result."""
    module, name, arguments, threads, result = json.loads(call)
    function = loaded(module, name, threads)
    Path(result).write_text(json.dumps(function(**arguments)))


if __name__ == "__main__":
    _child(sys.argv[1])
