"""Live bars of a training on a terminal. The only module that knows both rich and the progress of a training."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from unigrec.pipeline.progress import Lines, Messages, Position, Screen, duration

MESSAGES_VARIABLE = "UNIGREC_PROGRESS"  # set by a parent process that shows the progress itself
READ_BY_PARENT = "messages"  # its value
VERBOSE_VARIABLE = "UNIGREC_VERBOSE"  # the option --verbose of a stage, where another program starts it
REFRESHES_PER_SECOND = 5
# Every column has its own place, so that a line of one training does not jump.
COLUMNS = (
    TextColumn("{task.description}", markup=False),
    TextColumn("epoch {task.fields[epoch]}"),
    TextColumn("step {task.fields[step]}"),
    BarColumn(bar_width=None),
    TextColumn("{task.percentage:>3.0f} %"),
    TextColumn("{task.fields[speed]}"),
    TextColumn("{task.fields[left]}"),
    TextColumn("{task.fields[best]}"),
)


class Bars:
    """A screen with a bar for the training that runs. Use it in a `with` block, which leaves the last line.

    Args:
        stream: the terminal. indent: blanks before each line. verbose: the lines of all epochs stay on the terminal;
            otherwise only the last one of each training.
    """

    def __init__(self, stream: TextIO, indent: str = "", verbose: bool = False):
        self.console = Console(file=stream, highlight=False, markup=False)
        self.bars = Progress(
            *COLUMNS, console=self.console, transient=True, expand=True, refresh_per_second=REFRESHES_PER_SECOND
        )
        self.indent, self.verbose = indent, verbose
        self.name: str | None = None
        self.task: TaskID | None = None
        self.last: str | None = None  # line of the latest epoch

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self.bars.stop()

    def line(self, text: str) -> None:
        """Keep the figures of an epoch for the end of the training, or print them above the bar."""
        if self.verbose:
            self.write(text)
        else:
            self.last = text

    def write(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(f"{self.indent}{text}", soft_wrap=True)

    def at(self, position: Position) -> None:
        """Move the bar."""
        if position.name != self.name:
            self._end()
            self.name = position.name
        steps = position.epochs * position.batches
        done = (position.epoch - 1) * position.batches + position.batch
        if self.task is None:
            self.task = self.bars.add_task(f"{self.indent}{position.name}", total=steps, **_fields(position, None))
        speed = self.bars.tasks[0].speed
        self.bars.update(self.task, total=steps, completed=done, **_fields(position, speed))

    def _end(self) -> None:
        """Remove the bar of a training that has ended, and leave its last line."""
        if self.task is not None:
            self.bars.remove_task(self.task)
            self.task = None
        if self.last is not None:
            self.write(self.last)
            self.last = None


def _fields(position: Position, speed: float | None) -> dict[str, Any]:
    return {
        "epoch": f"{position.epoch:>{len(str(position.epochs))}}/{position.epochs}",
        "step": f"{position.batch:>{len(str(position.batches))}}/{position.batches}",
        "speed": "" if speed is None else f"{speed:.1f}/s",
        "left": "" if position.left is None else f"left {duration(position.left)}",
        "best": "" if position.best is None else f"best {position.best:.4f}",
    }


def is_terminal(stream: TextIO) -> bool:
    """Whether bars can be drawn on the stream."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


@contextmanager
def screen(verbose: bool) -> Iterator[Screen]:
    """What shows the trainings of this process: messages if its parent reads them, bars on a terminal, else lines."""
    if os.environ.get(MESSAGES_VARIABLE) == READ_BY_PARENT:
        yield Messages()
    elif is_terminal(sys.stderr):
        with Bars(sys.stderr, verbose=verbose) as bars:
            yield bars
    else:
        yield Lines()
