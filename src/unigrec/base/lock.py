"""One process at a time: a kernel lock, which a killed run lets go of by itself."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from unigrec.base.errors import BusyError

POLL_SECONDS = 0.02


@contextmanager
def exclusive(path: Path, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock within the block.

    Args:
        wait_seconds: for how long to wait for another process that holds it; who that is, is printed.

    Raises:
        BusyError: another process, which the message names, still holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        deadline, told = time.monotonic() + wait_seconds, False
        while not _taken(file):
            holder = _holder(file)
            if time.monotonic() >= deadline:
                raise BusyError(f"another run is at work in this folder (process {holder}); wait for it, or stop it")
            if not told:
                print(f"waiting for process {holder}, up to {wait_seconds:.0f} s", flush=True)
            told = True
            time.sleep(POLL_SECONDS)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _taken(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip()
