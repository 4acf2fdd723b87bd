"""Output of a flow: each line goes to the run's log and to the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefect.logging import get_run_logger

from unigrec.commands.bars import MESSAGES_VARIABLE, READ_BY_PARENT, VERBOSE_VARIABLE, Bars, is_terminal
from unigrec.pipeline.progress import read_message

Emit = Callable[[str], None]
DVC_HEADING = ("Running stage '", "> ")  # the flow has printed the stage's name already


def emitter(indent: str = "") -> Emit:
    """Writes a line to the log of the current run, and, indented, to the terminal."""
    logger = get_run_logger()

    def emit(line: str) -> None:
        logger.info("%s", line)
        print(f"{indent}{line}", flush=True)

    return emit


@contextmanager
def stage_output(indent: str) -> Iterator[Emit]:
    """Takes the lines of a stage. On a terminal, a training has a bar, of which its last line stays.

    A stage's output reaches us through DVC and a pipe, so a training cannot draw by itself: it sends messages between
    its lines. The log of the run holds the figures of every epoch.
    """
    if not is_terminal(sys.stdout):
        yield emitter(indent)
        return
    logger = get_run_logger()
    os.environ[MESSAGES_VARIABLE] = READ_BY_PARENT  # for the stages that we start
    with Bars(sys.stdout, indent, verbose=bool(os.environ.get(VERBOSE_VARIABLE))) as bars:

        def emit(line: str) -> None:
            message = read_message(line)
            if message is None:
                logger.info("%s", line)
                if not line.startswith(DVC_HEADING):
                    bars.write(line)
            elif isinstance(message, str):
                logger.info("%s", message)
                bars.line(message)
            else:
                bars.at(message)

        yield emit
