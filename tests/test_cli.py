"""The command line: its stages are those of dvc.yaml, and names of files may be too long."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import yaml

from support.command_line import invoke
from support.project import PARAMS_FILE, ROOT
from unigrec import cli
from unigrec.base import launcher, process
from unigrec.base.errors import EXIT_BAD_INPUT, EXIT_BROKEN, EXIT_NO_READER, EXIT_OK, UnigrecError
from unigrec.config.edit import configure
from unigrec.pipeline import running

LONG = "x" * 300


def test_a_stage_has_one_name_in_dvc_yaml_on_the_command_line_and_as_a_function():
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert [stage["cmd"] for stage in graph.values()] == [f"unigrec stage {name}" for name in cli.STAGES]
    assert set(cli.STAGES) == {*running.WITHOUT_RUN, *running.WITH_RUN}


def test_an_unknown_stage_is_bad_input_and_the_message_lists_the_stages():
    code, output = invoke("stage", "load_sequences")
    assert code == EXIT_BAD_INPUT
    assert output == f"no stage 'load_sequences'; there are {', '.join(cli.STAGES)}"


def test_the_help_has_one_line_for_all_stages():
    code, output = invoke("--help")
    assert code == 0
    assert "stage " in output
    assert "tokenizer" not in output


@pytest.mark.parametrize(
    "arguments",
    [
        ["configure", "--data", LONG],
        ["configure", "--profile", LONG],
        ["configure", "--params", LONG],
        ["recommend", "--history", "a", "--params", LONG],
        ["register", "--params", f"./{LONG}/{LONG}"],
        ["fetch", "--source", "amazon-2014", "--category", "Beauty", "--to", LONG, "--base-url", "http://127.0.0.1:9"],
        ["gate", "--challenger", LONG, "--params", LONG],
    ],
    ids=lambda arguments: " ".join(word[:10] for word in arguments),
)
def test_a_name_that_is_too_long_for_a_file_is_bad_input(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(PARAMS_FILE, tmp_path)
    monkeypatch.setattr("sys.argv", ["unigrec", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err.startswith("error: ")) == (EXIT_BAD_INPUT, True)


@pytest.mark.parametrize(
    ("arguments", "starts"), [(["stage", "no such stage"], True), (["configure", "--profile", "none"], False)]
)
def test_stages_alone_start_again_for_huge_pages(arguments, starts, tmp_path, monkeypatch):
    (tmp_path / "enabled").write_text("always [madvise] never")
    started = []
    monkeypatch.setattr(process, "HUGE_PAGES", tmp_path / "enabled")
    monkeypatch.setattr(process.os, "execve", lambda *given: started.append(given))
    monkeypatch.delenv(process.TUNABLES, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["unigrec", *arguments])
    with pytest.raises(SystemExit):
        cli.main()
    assert bool(started) == starts


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UnigrecError("no such item"), EXIT_BAD_INPUT, "error: no such item\n"),
        (PermissionError(13, "Permission denied", "/a/file"), EXIT_BAD_INPUT, "error: /a/file: Permission denied\n"),
        (ValueError("a defect"), EXIT_BROKEN, "ValueError: a defect\n"),
        (OSError("no path"), EXIT_BROKEN, "OSError: no path\n"),
    ],
)
def test_every_error_has_an_exit_code_and_only_a_defect_has_a_traceback(error, code, said, monkeypatch, capsys):
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr("sys.argv", ["unigrec"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr().err
    assert (ended.value.code, shown.endswith(said)) == (code, True)
    assert ("Traceback" in shown) == (code == EXIT_BROKEN)


@pytest.mark.parametrize(("threads", "given"), [(1, "1"), (0, None)])
def test_params_say_how_many_threads_each_rank_has(threads, given, tmp_path, monkeypatch):
    shutil.copy(PARAMS_FILE, tmp_path)
    configure(tmp_path / "params.yaml", settings=["joint.processes=2", f"threads={threads}"])
    monkeypatch.setenv("OMP_NUM_THREADS", "")  # so that what is set is removed again
    monkeypatch.delenv("OMP_NUM_THREADS")
    found = []
    monkeypatch.setattr(launcher, "run_ranks", lambda *_: found.append(os.environ.get("OMP_NUM_THREADS")))
    cli._run_stage("joint", tmp_path / "params.yaml", verbose=False, hosts=None)
    assert found == [given]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [(["--help"], EXIT_NO_READER, ""), (["look", "nowhere"], EXIT_BAD_INPUT, "error: nowhere")],
)
def test_output_that_nobody_reads_is_no_refusal_and_hides_no_error(arguments, code, said):
    reader, writer = os.pipe()
    os.close(reader)
    run = [sys.executable, "-c", "from unigrec.cli import main; print('first'); main()", *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(run, stdout=writer, stderr=subprocess.PIPE, text=True, env=buffered)
    os.close(writer)
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (code, True, False)


def test_a_command_works_without_a_standard_output():
    run = f"{sys.executable} -c 'from unigrec.cli import main; main()' --help >&-"
    assert subprocess.run(run, shell=True).returncode == EXIT_OK
