"""One process at a time: a kernel lock, which a killed run lets go of by itself."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unigrec.errors import BusyError


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock within the block. Raises BusyError at once, naming the process, when another one holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise BusyError(
                f"another run is at work in this folder (process {file.read().strip()}); wait for it, or stop it"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
