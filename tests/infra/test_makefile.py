"""`make run` settles DVC's view of git before the flow starts. A program in place of Python notes its calls."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.project import ROOT

NOTES = "calls"
NO_SCM, UNSET = "-m dvc config --local core.no_scm true", "-m dvc config --local --unset core.no_scm"
FLOW = "-m flows.retrain"


@pytest.fixture
def project(tmp_path) -> Path:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$@" >> {NOTES}\necho "$PYTHONPATH" > path\n')
    python.chmod(0o755)
    (tmp_path / ".venv/.installed").touch()
    (tmp_path / ".dvc").mkdir()
    return tmp_path


def calls(project: Path, **environment: str) -> list[str]:
    # What an outer `make test ARGS=...` hands on is not part of the case.
    outer = ("GIT_", "PYTHONPATH", "MAKE", "MFLAGS", "ARGS", "DATA", "PROFILE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    ran = subprocess.run(["make", "run"], cwd=project, env=kept | environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return (project / NOTES).read_text().splitlines()


def test_an_unpacked_archive_is_used_without_git(project):
    assert calls(project, GIT_CEILING_DIRECTORIES=str(project.parent)) == [NO_SCM, FLOW]


@pytest.mark.parametrize("foreign", ["", "1"], ids=["our own", "of another user"])
def test_a_clone_keeps_its_settings(project, foreign):
    subprocess.run(["git", "init", "--quiet", str(project)], check=True)
    assert calls(project, GIT_TEST_ASSUME_DIFFERENT_OWNER=foreign) == [FLOW]


def test_a_setting_that_an_earlier_run_left_in_a_clone_is_removed(project):
    subprocess.run(["git", "init", "--quiet", str(project)], check=True)
    (project / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    assert calls(project) == [UNSET, FLOW]


def test_the_code_is_that_of_this_folder(project):
    calls(project, PYTHONPATH="/elsewhere")
    assert (project / "path").read_text() == f"{project}/src:/elsewhere\n"


@pytest.fixture
def bare(project) -> Path:
    """A project without an environment."""
    shutil.rmtree(project / ".venv")
    return project


def python_of(project: Path, name: str, version: str) -> Path:
    """A script on PATH that passes as an interpreter and notes its calls."""
    path = project / "bin" / name
    path.parent.mkdir(exist_ok=True)
    refused = int(version not in ("3.11", "3.12", "3.13"))
    body = f'[ "$1" != --version ] || echo Python {version}.0; [ "$1" != -c ] || exit {refused}'
    body += f'; echo {name} "$@" >> {NOTES}'
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def make(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Without what the tests' own caller chose: CI runs make with INSTALLER=pip.
    chosen = ("MAKE", "MFLAGS", "INSTALLER", "TORCH", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(chosen)}
    path = f"{project}/bin:/usr/bin:/bin"
    return subprocess.run(["make", *arguments], cwd=project, env=kept | {"PATH": path}, capture_output=True, text=True)


def test_the_first_interpreter_that_runs_and_is_known_makes_the_environment(bare):
    # Such as pyenv's stand-in for a version that is not selected.
    python_of(bare, "python3.11", "none").write_text("#!/bin/sh\nexit 127\n")
    for name, version in (("python3.12", "3.10"), ("python3.13", "3.13"), ("python3", "3.11")):
        python_of(bare, name, version)
    make(bare, "install", "TORCH=cpu", "TORCH_INDEX=https://example.org/a b")
    (call,) = [line for line in (bare / NOTES).read_text().splitlines() if "install.py" in line]
    assert call == (
        "python3.13 infra/install.py --environment .venv --installer auto --torch cpu "
        "--torch-index https://example.org/a b --stamp .venv/.installed requirements.lock"
    )


@pytest.mark.parametrize("version", ["2.7", "3.10", "3.14"])
def test_another_interpreter_is_refused_by_its_version(bare, version):
    python = python_of(bare, "mine", version)
    done = make(bare, "install", f"PYTHON={python}")
    assert done.returncode == 2
    assert f"{python} is Python {version}.0, and only 3.11, 3.12 and 3.13 are tried" in done.stderr
    assert not (bare / NOTES).exists() or "install.py" not in (bare / NOTES).read_text()


def test_a_choice_is_looked_at_even_if_the_environment_is_there(project):
    make(project, "install")
    assert not (project / NOTES).exists()
    make(project, "install", "TORCH=cpu")
    assert "--torch cpu" in (project / NOTES).read_text()


def test_a_run_begins_with_the_interpreter_it_takes(project):
    (project / ".venv/.installed").write_text("Python 3.12.1 (/usr/bin/python3.12), torch 2.13.0, 228 packages\n")
    assert make(project, "run").stdout.startswith("Python 3.12.1 (/usr/bin/python3.12), torch")
