"""Runs one command, and kills every process that came of it: when the command ends, or when the flow is gone.

Usage: `python flows/stages/supervisor.py command ...`. Standard input is a pipe whose other end only the flow holds, so
the supervisor notices even a killed flow: one byte asks the command's group to stop, the pipe's end kills it. The
kernel's signal on the death of a parent (prctl) would not do: it reaches a child, but not the child of a shell.

Standard library only, on purpose: one supervisor starts with every stage, in some hundredths of a second, because
neither site packages (psutil among them) nor our own code are imported. It therefore reads /proc by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def supervise(command: list[str]) -> int:
    """Run the command. Returns its exit status (128 plus the signal's number) once no descendant is left."""
    _adopt_orphans()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    threading.Thread(target=_obey_the_pipe, args=(process.pid,), daemon=True).start()
    status = process.wait()
    _signal_group(process.pid, signal.SIGKILL)
    _end_children()
    return status if status >= 0 else 128 - status


def _obey_the_pipe(group: int) -> None:
    """Terminate the group at the first byte, kill it at the end of the pipe."""
    stdin = sys.stdin.fileno()
    if os.read(stdin, 1):
        _signal_group(group, signal.SIGTERM)
        os.read(stdin, 1)  # returns at the pipe's end
    _signal_group(group, signal.SIGKILL)


def _adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, in any group or session (Linux only)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _end_children() -> None:
    """Kill children until there are none. The children of a killed one become ours, for the next round."""
    with contextlib.suppress(ChildProcessError):
        while True:
            for child in _children():
                os.kill(child, signal.SIGKILL)  # not reaped yet, so no other process has its number
            os.waitpid(-1, 0)


def _children() -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = stat.read_text(errors="replace").rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                found.append(int(stat.parent.name))
    return found


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses to signal a group of zombies
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[1:]))
