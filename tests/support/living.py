"""Helpers for tests of killed processes: list live processes, list file times, wait for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def processes_of(folder: Path) -> list[int]:
    """Ids of live processes whose working directory is the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink() == folder and "State:\tZ" not in (entry / "status").read_text():
                found.append(int(entry.name))
        except OSError:  # it has ended, or belongs to another user
            continue
    return found


def command_of(process: int) -> list[str]:
    """Arguments of a process, the program first; empty if it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def times_of_change(folder: Path) -> dict[Path, int]:
    """Time of the last change in ns, per file and folder."""
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}
