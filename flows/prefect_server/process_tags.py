"""Flow runs of killed processes: they cannot say any more that they ended, so the next process says it for them."""

from __future__ import annotations

import os
import socket

import psutil
from prefect.client.orchestration import get_client

from flows.prefect_server import runs

GONE = "its process is gone; the next run on its machine noticed"
_TAG = "process"


def process_tag() -> str:
    """Names this process for good: another may have its number later, but not the moment of its start too."""
    return " ".join((_TAG, socket.gethostname(), str(os.getpid()), _started(os.getpid())))


def close_abandoned_runs() -> None:
    """Mark as crashed the flow runs whose process, by their tag, is gone from this machine, and their tasks' runs."""
    with get_client(sync_client=True) as client:
        for run in runs.at_work(client):
            if any(_is_gone(tag) for tag in run.tags):
                runs.bury(client, run, GONE)


def _is_gone(tag: str) -> bool:
    """False for the tags of other machines, and for those that are none of ours."""
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
