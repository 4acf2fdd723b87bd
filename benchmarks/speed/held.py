"""Rows of a comparison, each in its own long-lived process, measured in turn.

Threads, allocator and arithmetic are settings of a whole process, so each row gets its own and runs as in real use.
One process works at a time. The others wait for a call and use no processor time.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self, TypeVar

from benchmarks.speed.harness import ROOT, Timing, import_path, loaded
from unigrec.base.process import die_with_parent, huge_pages

Name = TypeVar("Name", bound=Hashable)


class Held:
    """A fresh Python process that holds an object and calls its methods, one at a time. A context manager ends it.

    Calls and results travel through their own file descriptor. Output of the process goes to standard error.

    Args:
        factory: a top-level class or function that makes the object. threads: threads of torch and OpenMP. arguments:
            arguments of the factory, JSON values.

    Attributes:
        peak: peak memory of the process in bytes, up to its last result.

    Raises:
        RuntimeError: the process failed, here or in a call. Its error message is on standard error.
    """

    def __init__(self, factory: Callable[..., Any], threads: int = 1, **arguments: Any):
        self.what, self.peak = f"{factory.__module__}.{factory.__name__}{arguments}", 0
        self.connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.speed.held", str(theirs.fileno())],
                cwd=ROOT,
                # Huge pages as in a stage: what is held trains or evaluates.
                env=os.environ | huge_pages() | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": import_path()},
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                pass_fds=[theirs.fileno()],
            )
        try:
            self._ask(factory.__module__, factory.__name__, threads, arguments)
        except BaseException:
            self.end()
            raise

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method of the object; returns its result as a JSON value."""
        return self.timed(method, Timing(), **arguments)

    def timed(self, method: str, into: Timing, **arguments: Any) -> Any:
        """Call a method and append its time to `into`. The process measures it, after a garbage collection."""
        result, cpu, wall, self.peak = self._ask(method, arguments)
        into.add(result, cpu, wall)
        return result

    def _ask(self, *question: Any) -> Any:
        try:
            self.connection.send_bytes(json.dumps(question).encode())
            return json.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            code = self.process.wait()
            raise RuntimeError(f"{self.what} ended with code {code}; its output is above") from None

    def end(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


@contextmanager
def held_each(
    factory: Callable[..., Any], parameter: str, values: Sequence[Name], threads: int = 1, **arguments: Any
) -> Iterator[dict[Name, Held]]:
    """Start one process per value of a parameter of the factory, one after the other."""
    with ExitStack() as stack:
        yield {
            value: stack.enter_context(Held(factory, threads, **{parameter: value}, **arguments)) for value in values
        }


def alternate(
    rows: Mapping[Name, Held],
    rounds: int,
    method: str = "round",
    warmup: int = 1,
    log: Callable[[str], None] | None = None,
    before: str | None = None,
    after: str | None = None,
    **arguments: Any,
) -> dict[Name, Timing]:
    """Call a method of all rows in turn, `rounds` times, with the number of the round: the same work for all rows.

    The order is reversed from one round to the next. Rounds of the warm-up come first and are not counted. The methods
    `before` and `after` run around each call and are not counted either.
    """
    timings = {name: Timing() for name in rows}
    for number in range(-warmup, rounds):
        for name in list(rows)[:: 1 if number % 2 == 0 else -1]:
            into = timings[name] if number >= 0 else Timing()
            if before:
                rows[name].call(before)
            rows[name].timed(method, into, number=number % rounds, **arguments)
            if after:
                rows[name].call(after)
        if log and number >= 0:
            took = ", ".join(f"{name} {timings[name].cpu[-1]:.3f} s" for name in rows)
            log(f"round {number + 1} of {rounds}: CPU {took}")
    return timings


def _answer(connection: Connection) -> None:
    """Run in the child process of `Held`: make the object, then serve calls until the pipe closes. An error ends it."""
    module, name, threads, arguments = json.loads(connection.recv_bytes())
    held = loaded(module, name, threads)(**arguments)
    connection.send_bytes(b"null")
    while True:
        try:
            method, arguments = json.loads(connection.recv_bytes())
        except EOFError:
            return
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        result = getattr(held, method)(**arguments)
        taken = time.process_time() - cpu, time.perf_counter() - wall
        connection.send_bytes(json.dumps([result, *taken, _peak()]).encode())


def _peak() -> int:
    """Peak memory in bytes. getrusage's figure would not do: it is never below that of the parent process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(kilobytes) * 1024


if __name__ == "__main__":
    die_with_parent()
    _answer(Connection(int(sys.argv[1])))
