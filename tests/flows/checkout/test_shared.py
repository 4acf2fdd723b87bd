"""What the worktree of a scheduled run shares with its repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.checkout import shared, worktree
from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError


@pytest.fixture
def shop(root) -> tuple[Path, Path]:
    """A repository with data next to the code, and its worktree."""
    (root / "data/snapshots/s1").mkdir(parents=True)
    (root / "data/current").symlink_to("snapshots/s1")
    (root / "data/incoming").mkdir()
    (root / "images.parquet").write_text("untracked")
    tree = worktree.make(root, worktree.base_of(root).commit, worktree.Inherited(None, None, None))
    return root, tree


def test_the_data_stays_what_it_was_when_the_run_began(shop):
    root, tree = shop
    shared.share_data(root, tree)
    (root / "data/snapshots/s2").mkdir()
    (root / "data/current").unlink()
    (root / "data/current").symlink_to("snapshots/s2")
    assert (tree / "data/current").resolve() == root / "data/snapshots/s1"
    assert (tree / "data/snapshots/s2").is_dir()
    shared.share_data(root, tree)
    assert (tree / "data/current").resolve() == root / "data/snapshots/s2"


def test_what_params_name_outside_of_git_is_linked(shop, tmp_path):
    root, tree = shop
    named = (
        f"register: {{tracking_uri: 'sqlite:///mlflow.db'}}\nembed: {{modalities: [images.parquet, {tmp_path}/x]}}\n"
    )
    (tree / "params.yaml").write_text(named)
    shared.share_named(root, tree, None)
    assert (tree / "images.parquet").resolve() == root / "images.parquet"
    (tree / "mlflow.db").write_text("through the link")
    assert (root / "mlflow.db").read_text() == "through the link"
    (tree / "params.yaml").write_text("ingest: {path: data/../../elsewhere}\n")
    with pytest.raises(UnigrecError, match=rf"ingest.path is data/../../elsewhere: relative, .*{tmp_path}/elsewhere"):
        shared.share_named(root, tree, "http://127.0.0.1:9")
    worktree.remove(root)
    assert (root / "images.parquet").read_text() == "untracked"


def test_state_is_the_repositorys_but_for_the_lock_of_the_folder(shop, monkeypatch):
    root, tree = shop
    monkeypatch.setattr(shared, "cache_folder", lambda folder: Path(folder) / ".dvc/cache")
    shared.share_state(root, tree)
    monkeypatch.chdir(tree)
    files.write_json(paths.REFERENCE, {})
    paths.AUDIT.write_text("a line\n")
    paths.LOCK.touch()
    assert [(root / file).exists() for file in (paths.REFERENCE, paths.AUDIT, paths.LOCK)] == [True, True, False]
    assert os.readlink(paths.CHECKPOINTS) == str(root / worktree.CHECKPOINTS)
