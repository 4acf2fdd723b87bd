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
