"""Flow runs of killed processes: they cannot say any more that they ended, so the next process says it for them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

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
    """When a process started, in the kernel's ticks since boot; empty where there is none, or no /proc to tell."""
    try:
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return ""
