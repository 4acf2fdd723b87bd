"""The commit that a bundle names."""

from __future__ import annotations

import os
import subprocess

import pytest

from unigrec.base import git


def test_a_machine_without_git_has_an_unknown_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git.git_commit() == "unknown"


def test_the_commit_names_the_code_and_what_a_run_rewrites_is_no_change_of_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert git.git_commit() == "unknown"
    for name in ("params.yaml", "dvc.lock", "code.py"):
        (tmp_path / name).write_text("as committed")
    for command in ("init --quiet", "add --all", "-c user.name=joe -c user.email=joe@host commit --quiet -m code"):
        subprocess.run(["git", *command.split()], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / "params.yaml").write_text("of this run")
    (tmp_path / "dvc.lock").write_text("of this run")
    assert git.git_commit() == commit
    (tmp_path / "code.py").write_text("changed")
    assert git.git_commit() == f"{commit}-dirty"


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository, with nothing in git's settings in the environment, now or after the test."""
    for name in ("GIT_CONFIG_COUNT", *(f"GIT_CONFIG_{part}_{n}" for part in ("KEY", "VALUE") for n in range(3))):
        monkeypatch.setenv(name, "")
        os.environ.pop(name)
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_clone_of_another_user_is_trusted_in_the_environment_alone(clone, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert b"dubious ownership" in git.git(clone, "status").stderr
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "user.name")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "joe")
    before = {path: path.read_bytes() for path in clone.rglob("*") if path.is_file()}
    assert git.trust_clone()
    assert git.trust_clone()
    assert git.git(clone, "status").returncode == 0
    assert git.git(clone, "config", "user.name").stdout == b"joe\n"
    assert os.environ["GIT_CONFIG_COUNT"] == "2"
    assert {path: path.read_bytes() for path in clone.rglob("*") if path.is_file()} == before
    (clone / "other").mkdir()
    subprocess.run(["git", "init", "--quiet", str(clone / "other")], check=True, capture_output=True)
    assert git.git(clone / "other", "status").returncode != 0  # only this clone is trusted


def test_a_clone_of_our_own_and_a_folder_without_git_need_nothing(clone, tmp_path_factory):
    assert not git.trust_clone()
    assert not git.trust_clone(tmp_path_factory.mktemp("plain"))
    assert "GIT_CONFIG_COUNT" not in os.environ
