"""DVC in a clone that belongs to another user."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from dvc.config import Config
from dvc.repo import Repo
from flows.stages.foreign_clone import foreign_clone
from flows.stages.graph import read_graph


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """A repository with DVC in it; git's and DVC's settings in the environment are as before after the test."""
    for name in ("DVC_GLOBAL_CONFIG_DIR", "GIT_CONFIG_COUNT", "GIT_CONFIG_KEY_0", "GIT_CONFIG_VALUE_0"):
        monkeypatch.setenv(name, "")
        os.environ.pop(name)
    project = tmp_path / "project"
    subprocess.run(["git", "init", "--quiet", str(project)], check=True)
    Repo.init(str(project), no_scm=True).close()
    (project / ".dvc/config").write_text("[core]\n    analytics = false\n")  # as committed: with git
    (project / "dvc.yaml").write_text("stages:\n  first:\n    cmd: echo\n")
    monkeypatch.chdir(project)
    return project


def give_away(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)


@pytest.mark.parametrize("users", ["", "[core]\n    autostage = true\n", "[cache]\n    dir = /big\n"])
def test_the_graph_is_read_and_no_trace_is_left(clone, tmp_path, monkeypatch, users):
    give_away(clone)
    (tmp_path / "users").mkdir()
    (tmp_path / "users/config").write_text(users)
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "users"))
    before = {path: path.read_bytes() for path in clone.rglob("*") if path.is_file() and "tmp" not in path.parts}
    with foreign_clone():
        assert read_graph().order == ["first"]
        config = Config(dvc_dir=str(clone / ".dvc"))
        assert config["core"]["no_scm"] is True
        assert config["core"].get("autostage", False) is ("autostage" in users)
        assert (config["cache"].get("dir") == "/big") is ("/big" in users)
    assert os.environ["DVC_GLOBAL_CONFIG_DIR"] == str(tmp_path / "users")
    assert {p: p.read_bytes() for p in clone.rglob("*") if p.is_file() and "tmp" not in p.parts} == before


def test_in_a_clone_of_our_own_nothing_changes(clone):
    before = dict(os.environ)
    with foreign_clone():
        assert dict(os.environ) == before
