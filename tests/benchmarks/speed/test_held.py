"""Tests of rows in their own processes: their results, the order of their work, and their end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks.speed.harness import Timing
from benchmarks.speed.held import Held, alternate, held_each


class Worker:
    """The object that a process holds here. It logs its calls."""

    def __init__(self, name: str = "ours", log: str = os.devnull):
        self.name, self.log = name, Path(log)

    def round(self, number: int, word: str = "") -> str:
        with self.log.open("a") as file:
            file.write(f"{self.name}{number}{word} ")
        return f"{self.name} {number}"

    def starts(self) -> None:
        self.round(0, "<")

    def rests(self) -> None:
        self.round(0, ">")

    def surroundings(self) -> list[object]:
        return [os.getpid(), os.environ["OMP_NUM_THREADS"]]

    def works(self, seconds: float) -> None:
        ends = time.process_time() + seconds
        while time.process_time() < ends:
            pass

    def sleeps(self, seconds: float) -> None:
        time.sleep(seconds)

    def prints(self) -> str:
        print("said by Python", flush=True)
        os.write(1, b"said to the descriptor\n")
        return sys.stdin.read()

    def holds(self, size: int) -> int:
        return len(b"1" * size)

    def fails(self) -> None:
        raise EOFError("what is wrong")


@pytest.fixture(scope="module")
def worker():
    with Held(Worker, threads=3, name="ours") as held:
        yield held


def test_calls_get_arguments_and_answer_in_another_process(worker: Held):
    assert worker.call("round", number=5) == "ours 5"
    process, threads = worker.call("surroundings")
    assert process == worker.process.pid != os.getpid()
    assert threads == "3"


def test_time_is_the_process_s_own(worker: Held):
    timing = Timing()
    worker.timed("works", timing, seconds=0.05)
    worker.timed("sleeps", timing, seconds=0.1)
    assert timing.results == [None, None]
    assert timing.cpu[0] >= 0.05 > timing.cpu[1]
    assert timing.wall[1] >= 0.1


def test_what_is_printed_or_read_there_disturbs_no_answer(capfd):
    with Held(Worker) as held:
        assert held.call("prints") == ""
        assert held.call("round", number=1) == "ours 1"
    assert capfd.readouterr() == ("", "said by Python\nsaid to the descriptor\n")


def test_the_peak_is_of_the_process_up_to_the_last_answer(worker: Held):
    worker.call("holds", size=1)
    before = worker.peak
    worker.call("holds", size=200_000_000)
    assert before + 150_000_000 < worker.peak < before + 250_000_000


def test_rows_do_the_work_of_every_round_once_and_in_turn(tmp_path: Path):
    log = tmp_path / "log"
    with held_each(Worker, "name", ("ours", "theirs"), log=str(log)) as held:
        timings = alternate(held, rounds=3, warmup=1, word="!")
        processes = [row.process for row in held.values()]
    warm_up, counted = "theirs2! ours2! ", "ours0! theirs0! theirs1! ours1! ours2! theirs2! "
    assert log.read_text() == warm_up + counted
    assert {name: timing.results for name, timing in timings.items()} == {
        name: [f"{name} {number}" for number in range(3)] for name in ("ours", "theirs")
    }
    assert [len(timing.cpu) for timing in timings.values()] == [3, 3]
    assert all(process.poll() is not None for process in processes)


def test_what_a_row_does_around_a_round_is_not_counted(tmp_path: Path):
    log = tmp_path / "log"
    with Held(Worker, name="ours", log=str(log)) as held:
        timings = alternate({"ours": held}, rounds=2, warmup=0, before="starts", after="rests")
    assert log.read_text() == "ours0< ours0 ours0> ours0< ours1 ours0> "
    assert timings["ours"].results == ["ours 0", "ours 1"]


def test_a_call_that_fails_is_an_error_with_its_words(capfd):
    with Held(Worker) as held, pytest.raises(RuntimeError, match=r"Worker.* ended with code 1"):
        held.call("fails")
    assert "what is wrong" in capfd.readouterr().err


def test_an_object_that_cannot_be_made_is_an_error(capfd):
    with pytest.raises(RuntimeError, match=r"Worker.*colour.* ended with code 1"):
        Held(Worker, colour="red")
    assert "unexpected keyword argument" in capfd.readouterr().err


PARENT = """
import os, sys
from benchmarks.speed.held import Held
from test_held import Worker
held = Held(Worker)
print(held.process.pid, flush=True)
held.call("sleeps", seconds=60)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the kernel of Linux")
def test_a_process_at_work_ends_with_the_one_that_started_it():
    path = os.pathsep.join([*filter(None, sys.path), str(Path(__file__).parent)])
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    ) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
    ends = time.monotonic() + 10
    while alive(child) and time.monotonic() < ends:
        time.sleep(0.01)
    assert not alive(child)


def alive(process: int) -> bool:
    """True if the process runs. An ended process may stay as a zombie until its exit code is read."""
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
