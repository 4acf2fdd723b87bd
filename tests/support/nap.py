"""A flow for tests of what happens around flows: it starts fast, and runs a child process like a stage."""

from pathlib import Path

from flows.stages.processes import run_streamed
from prefect import flow


@flow(name="nap")
def nap(seconds: float = 600.0) -> None:
    """Sleep in a child process. The file `napping` exists while it sleeps."""
    run_streamed(["/bin/sh", "-c", f"echo $$ > napping; sleep {seconds}"], print)
    Path("napping").unlink(missing_ok=True)
