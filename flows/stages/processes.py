"""Runs one stage as a child process, which streams its output and is killed when this process dies."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unigrec.base.errors import EXIT_BAD_INPUT, EXIT_BROKEN, EXIT_INVALID_DATA, UnigrecError

GRACE_SECONDS = 5.0  # between the request to stop and the kill
SUPERVISOR = Path(__file__).with_name("supervisor.py")
# DVC's closing remarks after a successful stage.
_REMARKS = ("Generating lock file", "Updating lock file", "To track the changes with git", "Use `dvc push`")
_STATUS = re.compile(r"exited with (-?\d+)")


class StageError(UnigrecError):
    """A stage failed. `status` is its own exit status; negative or above 128 where a signal ended it."""

    def __init__(self, stage: str, status: int):
        self.status = status
        # Exit code 1 would say that a gate refused the model.
        self.exit_code = status if status in (EXIT_INVALID_DATA, EXIT_BROKEN) else EXIT_BAD_INPUT
        super().__init__(f"stage {stage} failed with exit status {status}; its output is above")

    @property
    def killed(self) -> bool:
        """Whether a signal ended it (out of memory, a machine that stops): try again, because it resumes."""
        return self.status < 0 or self.status > 128


def run_stage(stage: str, emit: Callable[[str], None]) -> bool:
    """Bring a stage up to date with `dvc repro --single-item`: DVC runs it, restores it from the cache, or skips it.

    Args:
        stage: its name in dvc.yaml.
        emit: receives each line of output without its line end; DVC's closing remarks are left out.

    Returns:
        Whether the stage's command ran.

    Raises:
        StageError: the stage failed. It holds the exit status of the stage's own command.
    """
    ran = over = False
    own_status: int | None = None

    def read(line: str) -> None:
        nonlocal ran, own_status, over
        ran = ran or line.startswith("Running stage")
        found = _STATUS.search(line) if line.startswith("ERROR: failed to reproduce") else None
        own_status = int(found.group(1)) if found else own_status
        over = over or line.startswith(_REMARKS)
        if line and not over:
            emit(line)

    status = run_streamed([sys.executable, "-m", "dvc", "repro", "--single-item", stage], read)
    if status:
        # 255 is DVC's own failure, such as a missing output or a lock that another DVC holds.
        raise StageError(stage, own_status if own_status is not None else EXIT_BAD_INPUT if status == 255 else status)
    return ran


def run_streamed(
    command: list[str],
    emit: Callable[[str], None],
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a command that is killed when this process dies. Uses the current folder and environment unless given.

    Returns its exit status, above 128 if a signal ended it.
    """
    process = start_supervised(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=cwd,
        env=child_environment(os.environ if environment is None else environment),
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            emit(line.rstrip("\n"))
        return process.wait()
    finally:
        stop(process)


def start_supervised(command: list[str], **options: Any) -> subprocess.Popen:
    """Start a command under a supervisor, which kills it and all its descendants when this process dies.

    Takes Popen's options. The command has a process group of its own, so Ctrl-C reaches only this process, which then
    stops the command. It has no standard input.
    """
    # -I -S: no PYTHONPATH, no site packages. The supervisor needs neither and starts faster without.
    supervisor = [sys.executable, "-I", "-S", str(SUPERVISOR)]
    return subprocess.Popen([*supervisor, *command], stdin=subprocess.PIPE, process_group=0, **options)


def stop(process: subprocess.Popen) -> None:
    """Stop what `start_supervised` started, with all its descendants: ask, wait `GRACE_SECONDS`, kill."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):  # it has ended, or does not obey
        os.write(process.stdin.fileno(), b".")
        process.wait(GRACE_SECONDS)
    process.stdin.close()
    process.wait()


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with this interpreter's programs first on PATH, so that dvc.yaml runs this `unigrec`."""
    programs = str(Path(sys.executable).parent)
    return {**environment, "PATH": os.pathsep.join([programs, environment.get("PATH", os.defpath)])}
