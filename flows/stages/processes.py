"""One stage as a child process: it streams its output, tells whether it had anything to do, and never outlives us."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unigrec.base.errors import EXIT_BAD_INPUT, EXIT_INVALID_DATA, UnigrecError

GRACE_SECONDS = 5.0  # between asking a stage to stop and killing it
SUPERVISOR = Path(__file__).with_name("supervisor.py")
# DVC's closing remarks, after a stage has ended well.
_REMARKS = ("Generating lock file", "Updating lock file", "To track the changes with git", "Use `dvc push`")
_STATUS = re.compile(r"exited with (-?\d+)")


class StageError(UnigrecError):
    """A stage failed. `status` is its own exit status; negative or above 128 where a signal ended it."""

    def __init__(self, stage: str, status: int):
        self.status = status
        # A stage that broke down with 1 must not look like a model that a gate refused.
        self.exit_code = status if status in (EXIT_BAD_INPUT, EXIT_INVALID_DATA) else EXIT_BAD_INPUT
        super().__init__(f"stage {stage} failed with exit status {status}; what it said is above")

    @property
    def killed(self) -> bool:
        """Whether a signal ended it (out of memory, a machine going away): worth another try, it resumes."""
        return self.status < 0 or self.status > 128


def run_stage(stage: str, emit: Callable[[str], None]) -> bool:
    """Bring a stage up to date with `dvc repro --single-item`: DVC runs it, restores it from its cache, or skips it.

    Args:
        stage: its name in dvc.yaml.
        emit: receives each line of output without its line end; DVC's closing remarks are left out.

    Returns:
        Whether the stage's command ran.

    Raises:
        StageError: it failed, with the exit status of the stage's own command.
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
        # 255 is DVC's own way to say that it failed; a missing output or a lock held elsewhere has no code of its own.
        raise StageError(stage, own_status if own_status is not None else EXIT_BAD_INPUT if status == 255 else status)
    return ran


def run_streamed(
    command: list[str],
    emit: Callable[[str], None],
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a command that ends with us, whatever ends us, here and in our environment unless others are given.

    Returns its exit status, above 128 where a signal ended it.
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
    """Start a command, with Popen's options, under a supervisor that ends it and all of its descendants with us.

    It is in a group of its own: Ctrl-C reaches us alone, and we stop it. It has no standard input.
    """
    # Neither site packages nor our caller's PYTHONPATH: it needs neither, and starts the faster.
    supervisor = [sys.executable, "-I", "-S", str(SUPERVISOR)]
    return subprocess.Popen([*supervisor, *command], stdin=subprocess.PIPE, process_group=0, **options)


def stop(process: subprocess.Popen) -> None:
    """End what `start_supervised` started, and all that came of it: first politely, then for good."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):  # it has ended, or is in no hurry
        os.write(process.stdin.fileno(), b".")
        process.wait(GRACE_SECONDS)
    process.stdin.close()
    process.wait()


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with this interpreter's programs first, so that `unigrec` in dvc.yaml is this installation's."""
    programs = str(Path(sys.executable).parent)
    return {**environment, "PATH": os.pathsep.join([programs, environment.get("PATH", os.defpath)])}
