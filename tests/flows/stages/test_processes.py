"""One stage as a child process: its output, its exit status, and nothing left running."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from flows.stages.graph import read_graph
from flows.stages.processes import StageError, child_environment, run_stage, run_streamed, start_supervised, stop

from flows.stages import processes
from support.flow_project import make_three_stages, reproduce_here
from support.living import processes_of, wait_for
from support.project import ROOT
from unigrec.base.errors import EXIT_BAD_INPUT, EXIT_INVALID_DATA


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_three_stages(tmp_path)


@pytest.mark.slow
def test_a_stage_streams_its_output_and_says_whether_it_ran(project):
    lines: list[str] = []
    assert run_stage("first", lines.append) is True
    assert "hello" in lines
    assert not any("git" in line for line in lines)
    assert run_stage("first", lines.append) is False
    (project / "b").unlink()
    assert run_stage("first", lines.append) is False  # restored from DVC's cache
    assert (project / "b").read_text() == "1"


@pytest.fixture(scope="module")
def two_done(tmp_path_factory) -> Path:
    """The project after its first two stages."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_three_stages(folder)
        reproduce_here(["first", "second"])
    return folder


@pytest.fixture
def before_third(two_done, tmp_path, monkeypatch) -> Path:
    """A copy of the project after its first two stages."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(two_done, tmp_path, dirs_exist_ok=True)


@pytest.mark.parametrize(
    ("status", "exit_code", "killed"),
    [("2", EXIT_BAD_INPUT, False), ("3", EXIT_INVALID_DATA, False), ("1", EXIT_BAD_INPUT, False), ("137", 2, True)],
)
def test_a_failing_stage_hands_on_its_exit_code(before_third, status, exit_code, killed):
    (before_third / "status").write_text(status)
    with pytest.raises(StageError, match=f"stage third failed with exit status {status}") as caught:
        run_stage("third", lambda line: None)
    assert (caught.value.exit_code, caught.value.killed) == (exit_code, killed)
    assert read_graph().stale == {"third"}


def test_a_killed_dvc_counts_as_killed(before_third):
    (before_third / "status").write_text("killed")
    with pytest.raises(StageError) as caught:
        run_stage("third", lambda line: None)
    assert caught.value.killed


def test_an_unknown_stage_is_bad_input(project):
    with pytest.raises(StageError) as caught:
        run_stage("fourth", lambda line: None)
    assert caught.value.exit_code == EXIT_BAD_INPUT
    assert not caught.value.killed


def test_stages_use_the_programs_of_this_environment():
    path = child_environment({"PATH": "/usr/bin"})["PATH"]
    assert path.split(os.pathsep) == [str(Path(sys.executable).parent), "/usr/bin"]


# A shell that stays in between (it has something to do afterwards), and a daemon that has left group and session.
SHELL = "{python} -c '{beat}'; true"


DAEMON = "{python} -c 'import os\nif os.fork() or os.setsid() or os.fork(): os._exit(0)\n{beat}'; sleep 60; true"


BEAT = 'import time\nwhile True: open("beat", "w").write(str(time.time())); time.sleep(0.1)'


@pytest.mark.parametrize("shell", [SHELL, DAEMON])
def test_a_killed_run_leaves_no_process_behind(tmp_path, shell):
    """The child would write for ever. Its ancestor is killed and cannot clean up."""
    command = ["/bin/sh", "-c", shell.format(python=sys.executable, beat=BEAT)]
    code = f"from flows.stages.processes import run_streamed; run_streamed({command!r}, print)"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    wait_for((tmp_path / "beat").exists)
    assert len(processes_of(tmp_path)) >= 4  # flow, supervisor, shell, child
    parent.kill()
    parent.wait()
    wait_for(lambda: not processes_of(tmp_path), 10)


def test_what_a_command_leaves_running_ends_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    left = DAEMON.replace("sleep 60; true", "sleep 0.5; echo over; exit 7").format(python=sys.executable, beat=BEAT)
    assert run_streamed(["/bin/sh", "-c", left], lines.append) == 7
    assert lines == ["over"]
    assert (tmp_path / "beat").exists()
    assert processes_of(tmp_path) == [os.getpid()]


def test_a_command_that_ignores_a_polite_word_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)
    process = start_supervised(
        ["/bin/sh", "-c", "trap '' TERM; echo ready; sleep 60; sleep 60"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
        stop(process)
        assert (process.returncode, process.stdout.read()) == (128 + signal.SIGKILL, b"")


def test_a_command_that_listens_may_tidy_up():
    tidy = "trap 'echo tidy; exit 3' TERM; echo ready; sleep 60 & wait"
    process = start_supervised(["/bin/sh", "-c", tidy], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
        stop(process)
        assert (process.returncode, process.stdout.read()) == (3, b"tidy\n")
