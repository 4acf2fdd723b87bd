"""Several ranks: their exit code and last words come through, and none outlives the others or the launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from torch.distributed.elastic.rendezvous import dynamic_rendezvous

from unigrec.base import launcher
from unigrec.base.errors import EXIT_BAD_INPUT, EXIT_BROKEN, EXIT_INVALID_DATA, InvalidDataError, UnigrecError
from unigrec.base.launcher import is_rank, report, run_ranks
from unigrec.base.process import LAUNCHER

RANK = "import os, sys, time; rank, world = int(os.environ['RANK']), int(os.environ['WORLD_SIZE']); "
LAUNCH = "import sys; from unigrec.base.launcher import run_ranks; run_ranks(['-c', sys.argv[1]], 2)"
# What `unigrec` does first thing in every stage, and a rank is a stage.
DIES_WITH_PARENT = "from unigrec.base.process import die_with_parent; die_with_parent(); "


@pytest.fixture(autouse=True)
def short_stack(monkeypatch):
    """The agent reads the names of its own methods off the stack, through the source of every imported module."""
    monkeypatch.setattr(dynamic_rendezvous, "get_method_name", lambda depth=2: "a method")


def test_every_rank_runs_and_knows_its_place(tmp_path):
    run_ranks(["-c", RANK + f"open(f'{tmp_path}/{{rank}}-of-{{world}}', 'w').close()"], 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-of-2", "1-of-2"]


def test_an_error_of_a_rank_comes_through_once_with_its_exit_code(capfd):
    code = RANK + (
        "from unigrec.base.errors import InvalidDataError; from unigrec.base.launcher import report\n"
        "report(InvalidDataError('the joint loss is not finite')); sys.exit(3)"
    )
    with pytest.raises(UnigrecError, match=r"^the joint loss is not finite$") as raised:
        run_ranks(["-c", code], 2)
    assert raised.value.exit_code == EXIT_INVALID_DATA
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("named", ["Müller", "j\udcf6rg"])  # the second is no UTF-8, as names of files may be
def test_an_error_comes_through_whatever_letters_it_has(monkeypatch, named):
    code = RANK + (
        "from unigrec.base.errors import InvalidDataError; from unigrec.base.launcher import report\n"
        f"report(InvalidDataError({named!a})); sys.exit(3)"
    )
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UnigrecError, match=f"^{named}$") as raised:
        run_ranks(["-c", code], 2)
    assert raised.value.exit_code == EXIT_INVALID_DATA


@pytest.mark.parametrize("end", ["os.abort()", "os.kill(os.getpid(), 15)", "sys.exit(1)"])
def test_the_exit_code_is_the_errors_whatever_becomes_of_the_rank_after_its_report(end):
    code = RANK + (
        "from unigrec.base.errors import InvalidDataError; from unigrec.base.launcher import report\n"
        f"report(InvalidDataError('the joint loss is not finite')); {end}"
    )
    with pytest.raises(UnigrecError, match=r"^the joint loss is not finite$") as raised:
        run_ranks(["-c", code], 2)
    assert raised.value.exit_code == EXIT_INVALID_DATA


# Rank 0 loses its peer and crashes first; rank 1 fails when the agent asks it to stop. It is ready before either.
LOST = """
import signal
from pathlib import Path
from unigrec.base.errors import InvalidDataError
from unigrec.base.launcher import run_and_end
def work():
    ready = Path({ready!r})
    if rank == 0:
        while not ready.exists(): time.sleep(0.01)
        raise RuntimeError("connection closed by peer")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    ready.touch()
    signal.sigwait([signal.SIGTERM])
    {end}
run_and_end(work)
"""


def lose(tmp_path, end: str) -> None:
    run_ranks(["-c", RANK + LOST.format(ready=str(tmp_path / "ready"), end=end)], 2)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("raise InvalidDataError('a full disk')", "a full disk"),
        ("os.kill(os.getpid(), 9)", "rank 1 was killed by SIGKILL; what it said is above. The same command .*"),
    ],
)
def test_what_failed_is_not_drowned_by_the_crash_of_a_rank_that_lost_it(tmp_path, capfd, end, message):
    with pytest.raises(UnigrecError, match=f"^{message}$"):
        lose(tmp_path, end)
    assert capfd.readouterr() == ("", "")


# The limit on a file's size kills the rank in the middle of its report, as the signal of the agent may.
CUT_SHORT = """
import resource
from unigrec.base.launcher import run_and_end
def work():
    if rank == 1: time.sleep(60)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
    raise RuntimeError("connection closed by peer")
run_and_end(work)
"""


def test_a_report_that_is_cut_short_is_no_report():
    with pytest.raises(UnigrecError, match=r"^rank 0 was killed by SIGXFSZ; what it said is above") as raised:
        run_ranks(["-c", "import signal; " + RANK + CUT_SHORT], 2)
    assert raised.value.exit_code == 128 + signal.SIGXFSZ


def test_of_two_crashes_the_first_is_shown(tmp_path, capfd):
    with pytest.raises(UnigrecError, match=r"^rank 0 ended with exit code 70; what it said is above$"):
        lose(tmp_path, "1 / 0")
    output, errors = capfd.readouterr()
    assert (output, errors.count("Traceback")) == ("", 1)
    assert errors.splitlines()[-1] == "RuntimeError: connection closed by peer"


@pytest.mark.parametrize(
    ("work", "code", "output", "errors"),
    [
        ("print('done', end='')", 0, "done", ""),
        ("raise InvalidDataError('what and where')", EXIT_INVALID_DATA, "", "error: what and where"),
        ("1 / 0", EXIT_BROKEN, "", "ZeroDivisionError: division by zero"),
    ],
)
def test_what_the_interpreters_teardown_would_trip_over_changes_nothing(work, code, output, errors):
    script = (
        "import atexit, os\n"
        "from unigrec.base.errors import InvalidDataError\n"
        "from unigrec.base.launcher import run_and_end\n"
        f"def work(): {work}\n"
        "atexit.register(os.abort); run_and_end(work)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, output)
    assert done.stderr.splitlines()[-1:] == ([errors] if errors else [])


def test_every_stage_of_the_command_line_ends_without_teardown(tmp_path):
    script = "import atexit, os; from unigrec.cli import main; atexit.register(os.abort); main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "stage", "prepare"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (EXIT_BAD_INPUT, 1), done.stderr
    assert done.stderr.startswith("error: params.yaml")


def test_a_rank_that_dies_without_a_word_is_named_and_the_others_are_stopped(capfd):
    started = time.monotonic()
    with pytest.raises(UnigrecError, match=r"^rank 1 was killed by SIGKILL; what it said is above\. ") as raised:
        run_ranks(["-c", RANK + "os.kill(os.getpid(), 9) if rank == 1 else time.sleep(60)"], 2)
    assert raised.value.exit_code == 128 + signal.SIGKILL  # as of a stage that was killed itself: tried again
    with pytest.raises(UnigrecError, match=r"^rank 0 ended with exit code 1; what it said is above$"):
        run_ranks(["-c", RANK + "1 / 0 if rank == 0 else time.sleep(60)"], 2)
    assert time.monotonic() - started < 30
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert errors.count("Traceback") == 1


def test_a_rank_that_starts_after_its_launcher_has_died_ends():
    launcher = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
    launcher.wait()
    environment = {**os.environ, LAUNCHER: str(launcher.pid)}
    done = subprocess.run([sys.executable, "-c", DIES_WITH_PARENT], env=environment)
    assert done.returncode == -signal.SIGKILL
    environment[LAUNCHER] = str(os.getpid())
    assert subprocess.run([sys.executable, "-c", DIES_WITH_PARENT], env=environment).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 128 + 15)])
def test_no_rank_outlives_the_launcher(tmp_path, number, code):
    rank = DIES_WITH_PARENT + RANK + f"open(f'{tmp_path}/{{os.getpid()}}', 'w').close(); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", LAUNCH, rank], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=20) == code
    assert process.stderr.read() == ""
    ranks = [int(path.name) for path in tmp_path.iterdir()]
    while any(running(rank) for rank in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running(process: int) -> bool:
    """Whether a process that is not our child is still there (a zombie is not)."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_outside_of_a_rank_an_error_is_printed(capsys, monkeypatch):
    monkeypatch.delenv(launcher.ERROR_FILE, raising=False)
    report(InvalidDataError("what and where"))
    assert capsys.readouterr().err == "error: what and where\n"


def test_a_process_of_torchrun_is_a_rank(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not is_rank()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_rank()


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(UnigrecError, match=r"joint\.processes = 2, but this machine has 1 GPU"):
        run_ranks(["-c", "pass"], 2)


def test_threads_are_shared_out_among_the_ranks(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(6))
    run_ranks(["-c", RANK + f"open('{tmp_path}/' + os.environ['OMP_NUM_THREADS'], 'w').close()"], 2)
    assert [path.name for path in tmp_path.iterdir()] == ["3"]
