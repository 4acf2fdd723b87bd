"""One process at a time: a kernel lock, which the kernel releases when its holder dies, `kill -9` included."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout

from unigrec.base.errors import BusyError, UnigrecError

POLL_SECONDS = 0.02


@contextmanager
def exclusive(path: Path, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock within the block. The file stays and names its last holder.

    Args:
        wait_seconds: for how long to wait for another process that holds the lock; its number is printed.

    Raises:
        BusyError: another process, which the message names, still holds the lock.
        UnigrecError: there can be no lock in this place.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Resolved: a checkout may link to the lock of another. No fallback: a file alone would outlive a killed holder.
        lock = FileLock(path.resolve(), poll_interval=POLL_SECONDS, fallback_to_soft=False)
        held = _acquired(lock, path, wait_seconds)
    except OSError as error:
        raise UnigrecError(f"{path}: no lock can be taken there: {error}") from error
    with held:
        with suppress(OSError):  # a full disk; the number is for messages alone
            path.write_text(str(os.getpid()))
        yield


def _acquired(lock: FileLock, path: Path, wait_seconds: float) -> AcquireReturnProxy:
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        if wait_seconds:
            print(f"waiting for process {_holder(path)}, up to {wait_seconds:.0f} s", flush=True)
    try:
        return lock.acquire(timeout=wait_seconds)
    except Timeout:
        busy = f"another run is at work in this folder (process {_holder(path)}); wait for it, or stop it"
        raise BusyError(busy) from None


def _holder(path: Path) -> str:
    return path.read_text().strip()
