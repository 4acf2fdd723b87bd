"""Settings of our processes: die with the parent, keep freed memory, keep libraries quiet."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DVC_STAGE = "DVC_STAGE"  # set by DVC for the commands that it starts
_PR_SET_PDEATHSIG = 1
# Parameters of glibc's mallopt, with values: free memory at the end of the heap that is returned to the kernel (-1:
# never), growth of the heap per request, and the size from which a block is mapped alone (and returned when freed).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = (-1, -1), (-2, 64 << 20), (-3, 1 << 30)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies, so that no orphan goes on writing (Linux only).

    DVC may die before this call. The process that then adopts us is not in DVC's process group, but we are: end here.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    group = os.getpgrp()
    if DVC_STAGE in os.environ and group != os.getpid() and os.getpgid(os.getppid()) != group:
        os.kill(os.getpid(), signal.SIGKILL)


def keep_memory() -> None:
    """Keep freed memory in the process for reuse instead of returning it to the kernel (Linux with glibc only).

    A training step frees its activations, and the next one allocates as much. If the memory were returned in between,
    the kernel would zero each page again in every step: a tenth of a step's time or more (docs/RESULTS.md, Speed).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        for parameter, value in (_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD):
            mallopt(parameter, value)


def training_device() -> torch.device:
    """The device to train on. Also configures the process: no denormals, memory is kept, deterministic on a CPU."""
    import torch

    keep_memory()
    torch.set_flush_denormal(True)  # optimizer states fade into denormal numbers, which are slow
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    # Otherwise several threads sum the gradient of a gather in any order, and a second run would give other bits.
    torch.use_deterministic_algorithms(True)
    # This would be a pass over every new tensor, as a help to find bugs.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device("cpu")


def keep_quiet() -> None:
    """Switch off telemetry, log noise and long spinning of threads in libraries; variables that are set stay.

    Call this before torch is imported.
    """
    for name, value in {
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DEEPSPEED_LOG_LEVEL": "error",
        "TOKENIZERS_PARALLELISM": "false",
        # Waiting threads that spin long make a step ten times slower if anything else runs; threads that never spin
        # make every step 1.5 times slower.
        "GOMP_SPINCOUNT": "5000",
    }.items():
        os.environ.setdefault(name, value)
