"""What a process of ours does about its surroundings: it dies with its parent, keeps memory, keeps libraries quiet."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

DVC_STAGE = "DVC_STAGE"  # set by DVC for the commands that it starts
_PR_SET_PDEATHSIG = 1
# Of glibc's mallopt: what is free at the end of the heap beyond this is given back (-1: never), how much the heap grows
# at once, and from which size on a block is mapped alone, and given back when it is freed.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = (-1, -1), (-2, 64 << 20), (-3, 1 << 30)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies, so that no orphan goes on writing (Linux only).

    DVC may have been killed before we asked. Whoever took us over then is not of DVC's process group, and we are.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    group = os.getpgrp()
    if DVC_STAGE in os.environ and group != os.getpid() and os.getpgid(os.getppid()) != group:
        os.kill(os.getpid(), signal.SIGKILL)


def keep_memory() -> None:
    """Let this process keep what it frees for what it allocates next (Linux with glibc; elsewhere nothing happens).

    A step frees its activations and the next one asks for as many. Given back in between, each page is fetched from the
    kernel and zeroed again, every step: a tenth of a training step's time and more (docs/RESULTS.md, Speed).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        for parameter, value in (_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD):
            mallopt(parameter, value)


def keep_quiet() -> None:
    """Switch off telemetry, chatter and spinning threads of the libraries; what the user has set already stays.

    To be called before torch is imported.
    """
    for name, value in {
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DEEPSPEED_LOG_LEVEL": "error",
        "TOKENIZERS_PARALLELISM": "false",
        # Threads that spin long while they wait make a step ten times slower as soon as anything else runs; threads
        # that never spin make every step half as slow again.
        "GOMP_SPINCOUNT": "5000",
    }.items():
        os.environ.setdefault(name, value)
