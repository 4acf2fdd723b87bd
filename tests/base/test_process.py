"""A process of ours and its surroundings: a parent that is gone already, memory that is kept."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from unigrec.base.process import DVC_STAGE, TUNABLES, free_cores, keep_few_products, use_threads

# A stage that has only just started when its parent is gone.
LATE = """
import os, sys, time
while os.getppid() == int(sys.argv[1]): time.sleep(0.01)
from unigrec.base.process import die_with_parent
die_with_parent()
print("works", flush=True)
"""
PARENT = """
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())])
os._exit(0)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the kernel of Linux")
@pytest.mark.parametrize(("stage", "said"), [({DVC_STAGE: "joint"}, ""), ({}, "works\n")])
def test_a_stage_that_finds_its_dvc_gone_does_no_work(stage, said):
    clean = {name: value for name, value in os.environ.items() if name != DVC_STAGE}
    done = subprocess.run(
        [sys.executable, "-c", PARENT, LATE], env=clean | stage, stdout=subprocess.PIPE, text=True, process_group=0
    )
    assert done.stdout == said


OTHER = "glibc.malloc.mxfast=64"
HUGE = """
import os, sys
from pathlib import Path
from unigrec.base import process
print(os.getpid(), sys.argv[1:], os.environ.get(process.TUNABLES))
process.HUGE_PAGES = Path(sys.argv[1])
process.use_huge_pages()
"""


@pytest.mark.parametrize(
    ("kernel", "set_before", "starts"),
    [
        ("always [madvise] never", None, [None, "glibc.malloc.hugetlb=1"]),
        ("always [madvise] never", OTHER, [OTHER, f"{OTHER}:glibc.malloc.hugetlb=1"]),
        ("always [madvise] never", "glibc.malloc.hugetlb=0", ["glibc.malloc.hugetlb=0"]),
        ("[always] madvise never", None, [None]),
        ("always madvise [never]", None, [None]),
        ("", None, [None]),  # a folder: it cannot be read
        (None, None, [None]),
    ],
)
def test_a_program_starts_again_once_where_it_has_to_ask_for_huge_pages(tmp_path, kernel, set_before, starts):
    file = tmp_path / "enabled"
    if kernel:
        file.write_text(kernel)
    elif kernel == "":
        file.mkdir()
    clean = {name: value for name, value in os.environ.items() if name != TUNABLES}
    process = subprocess.Popen(
        [sys.executable, "-c", HUGE, str(file), "two words"],
        env=clean | ({} if set_before is None else {TUNABLES: set_before}),
        stdout=subprocess.PIPE,
        text=True,
    )
    said = process.communicate()[0].splitlines()
    assert said == [f"{process.pid} {[str(file), 'two words']} {value}" for value in starts]


KEEP = """
import resource, sys
import torch
from unigrec.base.process import keep_memory
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    for size in (50_000, 1_000_000, 10_000_000):
        torch.ones(size) + torch.ones(size)
def faults_of_a_step():
    for _ in range(4):  # until the heap has a place for each
        step()
    before = faults()
    step()
    return faults() - before
given_back = faults_of_a_step()
keep_memory()
print(given_back, faults_of_a_step())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is asked")
@pytest.mark.slow
def test_memory_that_is_kept_is_not_fetched_from_the_kernel_again():
    given_back, kept = map(int, subprocess.check_output([sys.executable, "-c", KEEP]).split())
    assert kept < 1000 < 10_000 < given_back  # pages


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_cores_that_others_hold_are_not_free():
    cores = len(os.sched_getaffinity(0))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores + 1)]
    try:
        assert free_cores() == 1
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize(("given", "expected"), [({}, [3]), ({"OMP_NUM_THREADS": "2"}, [])])
def test_a_stage_computes_with_as_many_threads_as_params_say_unless_the_environment_says_else(
    monkeypatch, given, expected
):
    called: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", called.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    use_threads(3)
    assert called == expected


def test_few_products_are_kept_unless_the_environment_says_how_many(monkeypatch):
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    keep_few_products()
    assert (os.environ["LRU_CACHE_CAPACITY"], os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]) == ("7", "32")
