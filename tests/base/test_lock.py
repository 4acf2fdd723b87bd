"""The lock: one holder at a time, named to the others, and free again when it dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from unigrec.base.errors import BusyError, UnigrecError
from unigrec.base.lock import exclusive

HOLDER = """
import sys, time
from pathlib import Path
from unigrec.base.lock import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "lock"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_kernel_releases_the_lock_of_a_killed_process(tmp_path, holder):
    busy = rf"another run is at work in this folder \(process {holder.pid}\)"
    with pytest.raises(BusyError, match=busy), exclusive(tmp_path / "lock"):
        pass
    with pytest.raises(BusyError, match=busy), exclusive(tmp_path / "lock", wait_seconds=0.1):
        pass
    holder.kill()
    holder.wait()
    with exclusive(tmp_path / "lock"):
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_who_waits_says_for_whom_and_goes_on_when_the_holder_ends(tmp_path, holder, capsys):
    timer = threading.Timer(0.2, holder.kill)
    timer.start()
    with exclusive(tmp_path / "lock", wait_seconds=60.0):
        pass
    timer.join()
    assert capsys.readouterr().out == f"waiting for process {holder.pid}, up to 60 s\n"


def test_nobody_waits_for_a_lock_that_is_free(tmp_path, capsys):
    with exclusive(tmp_path / "a/folder/lock", wait_seconds=60.0):
        pass
    assert capsys.readouterr().out == ""


def test_a_link_and_its_target_are_one_lock(tmp_path):
    target, link = tmp_path / "lock", tmp_path / "link"
    link.symlink_to(target)  # nothing lies there yet
    with exclusive(link), pytest.raises(BusyError, match=str(os.getpid())), exclusive(target):
        pass
    assert link.is_symlink()


def test_an_error_within_the_block_releases_the_lock(tmp_path):
    lock: Path = tmp_path / "lock"
    with pytest.raises(KeyError), exclusive(lock):
        raise KeyError
    with exclusive(lock):
        pass


def test_a_place_without_locks_is_an_error_in_words(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UnigrecError, match="no lock can be taken there"), exclusive(tmp_path / "file" / "lock"):
        pass
