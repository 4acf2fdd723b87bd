"""Output of a flow: each line goes to the run's log and to the terminal."""

from __future__ import annotations

from collections.abc import Callable

from prefect.logging import get_run_logger

Emit = Callable[[str], None]


def emitter(indent: str = "") -> Emit:
    """Writes a line to the log of the current run, and, indented, to the terminal."""
    logger = get_run_logger()

    def emit(line: str) -> None:
        logger.info("%s", line)
        print(f"{indent}{line}", flush=True)

    return emit
