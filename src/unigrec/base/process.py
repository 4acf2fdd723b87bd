"""Settings of our processes: huge pages, die with the parent, keep freed memory, keep libraries quiet."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DVC_STAGE = "DVC_STAGE"  # set by DVC for the commands that it starts
LAUNCHER = "UNIGREC_LAUNCHER"  # set for the ranks of a stage: id of the process that starts them
_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 0.3  # of observation to count free cores
# Parameters of glibc's mallopt, with values: free memory at the end of the heap that is returned to the kernel (-1:
# never), growth of the heap per request, and the size from which a block is mapped alone (and returned when freed).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = (-1, -1), (-2, 64 << 20), (-3, 1 << 30)
# Says which programs the kernel gives huge pages to; and how glibc (2.35 or newer) is told to ask for them.
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLES, _ASK_FOR_HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def huge_pages() -> dict[str, str]:
    """What the environment of a new program needs for a heap of huge pages; empty if nothing (Linux with glibc only).

    A training step reads and writes gigabytes. With pages of 4 KiB, the processor has to look up most addresses in
    tables, and in a virtual machine in two of them (docs/RESULTS.md, "Huge pages"). It is empty, too, if the kernel
    gives huge pages to all programs or to none, and if the environment has that setting already.
    """
    tunables = os.environ.get(TUNABLES, "")
    try:
        on_request = "[madvise]" in HUGE_PAGES.read_text(encoding="ascii")
    except OSError:  # no Linux, or nothing to be read there
        return {}
    if not on_request or _ASK_FOR_HUGE_PAGES in tunables:
        return {}
    return {TUNABLES: ":".join(filter(None, (tunables, f"{_ASK_FOR_HUGE_PAGES}=1")))}


def use_huge_pages() -> None:
    """Start this program anew if it needs that for `huge_pages()`: glibc reads its settings when a program starts.

    The process and its command stay. Call this before any work. The second start finds the setting in the environment,
    and so do the processes that it starts.
    """
    asked = huge_pages()
    if asked:
        sys.stdout.flush()
        sys.stderr.flush()
        with suppress(OSError):  # small pages are slow, but they do
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | asked)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies, so that no orphan goes on writing (Linux only).

    DVC or a launcher of ranks may die before this call: another process then has adopted us. End here. (That process is
    not in DVC's process group, but we are.)
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    group = os.getpgrp()
    if os.environ.get(LAUNCHER) not in (None, str(os.getpid()), str(os.getppid())):
        os.kill(os.getpid(), signal.SIGKILL)
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


def keep_few_products() -> None:
    """Let oneDNN keep fewer compiled products, unless the environment says how many. Call it before torch is imported.

    It compiles one per size, and searches have many sizes. Two caches, its own and torch's, hold each of them; with
    their default of 1,024, a process that searches for long grows by half a gigabyte and more.
    """
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, "32")


def use_threads(threads: int) -> None:
    """Compute with so many threads; 0: as many as there are free cores. OMP_NUM_THREADS in the environment wins.

    The threads of a product wait for each other. If another process holds the core of one of them, a step of a small
    model takes several times as long as with a single thread.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads or free_cores())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_cores() -> int:
    """Cores that other processes leave free now, at least 1 (Linux only; elsewhere, all cores)."""
    if not sys.platform.startswith("linux"):
        return os.cpu_count() or 1
    before = _busy_seconds()
    time.sleep(_LOOK_SECONDS)
    busy = (_busy_seconds() - before) / _LOOK_SECONDS
    return max(1, round(len(os.sched_getaffinity(0)) - busy))


def _busy_seconds() -> float:
    """Seconds of work of all cores since the machine started."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


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
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # it warns of every host whose address has no name
        "TOKENIZERS_PARALLELISM": "false",
        # Waiting threads that spin long make a step ten times slower if anything else runs; threads that never spin
        # make every step 1.5 times slower.
        "GOMP_SPINCOUNT": "5000",
    }.items():
        os.environ.setdefault(name, value)
