"""The commit that a bundle names."""

from __future__ import annotations

import subprocess

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
