"""The tag by which a flow run names its process, so that the next process can tell whether that one is gone."""

from __future__ import annotations

import os
import socket

import psutil

_TAG = "process"


def process_tag() -> str:
    """Names this process for good: another process may get its number later, but not its moment of start as well."""
    return " ".join((_TAG, socket.gethostname(), str(os.getpid()), _started(os.getpid())))


def is_gone(tag: str) -> bool:
    """Whether a tag names a process of this machine that has ended. False for other machines, and for other tags."""
    kind, *words = tag.split(" ")
    if kind != _TAG or len(words) != 3:
        return False
    host, process, started = words
    return host == socket.gethostname() and _started(int(process)) != started


def _started(process: int) -> str:
    """Hundredths of a second between the machine's boot and the process's start; empty without such a process.

    Since boot, not since 1970: psutil's own figure moves whenever the machine's clock is set.
    """
    try:
        return str(round(100 * (psutil.Process(process).create_time() - psutil.boot_time())))
    except psutil.Error:
        return ""
