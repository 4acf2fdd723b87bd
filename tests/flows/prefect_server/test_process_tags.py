"""The tag by which a run names its process, also after another process has got the same number."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import psutil
from flows.prefect_server.process_tags import is_gone, process_tag


def test_whose_process_is_gone_is_known_by_its_number_and_its_start():
    ours = process_tag()
    _, host, number, start = ours.split(" ")
    assert (host, number) == (socket.gethostname(), str(os.getpid()))
    assert not is_gone(ours)
    assert is_gone(ours.replace(start, str(int(start) - 1)))  # its number is another process's by now
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        of_child = ours.replace(f" {number} ", f" {child.pid} ")
    assert is_gone(of_child)
    assert not any(is_gone(tag) for tag in (of_child.replace(host, "elsewhere"), "process", "process of joy"))


def test_a_machine_whose_clock_is_set_right_keeps_its_living_runs(monkeypatch):
    ours, boot, started = process_tag(), psutil.boot_time(), psutil.Process().create_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: boot + 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: started + 3600)
    assert not is_gone(ours)
