"""The repository with which tests of the checkout begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.repository import COLD, PARAMS, commit, git


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A repository with one commit on main. git knows no name of a committer."""
    for name, value in {"HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1", "XDG_CONFIG_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "project"
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(folder))
    commit(folder, __gitignore="/state/\n/data/\n", params__yaml=PARAMS.format(start=COLD), code__py="1\n")
    return folder.resolve()
