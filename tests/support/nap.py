"""A flow that is quick to start and runs a child as a stage is run, for tests of what happens around flows."""

from pathlib import Path

from flows.stages.processes import run_streamed
from prefect import flow


@flow(name="nap")
def nap(seconds: float = 600.0) -> None:
    """Sleep as a child process; `napping` says that it does."""
    run_streamed(["/bin/sh", "-c", f"echo $$ > napping; sleep {seconds}"], print)
    Path("napping").unlink(missing_ok=True)
