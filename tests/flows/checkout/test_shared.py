"""What the worktree of a scheduled run shares with its repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dvc.repo import Repo
from flows.stages.graph import cache_folder

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


def test_attached_databases_that_are_files_are_linked(shop):
    root, tree = shop
    for name in ("shop.duckdb", "crm.db"):
        (root / name).write_text("untracked")
    attach = "{shop: shop.duckdb, crm: 'sqlite:crm.db', orders: 'postgres:host=db', ads: 'mysql:host=db'}"
    (tree / "params.yaml").write_text(f"ingest: {{sql: {{attach: {attach}}}}}\n")
    shared.share_named(root, tree, "http://127.0.0.1:9")
    assert [(tree / name).resolve() for name in ("shop.duckdb", "crm.db")] == [root / "shop.duckdb", root / "crm.db"]
    assert not [path.name for path in tree.iterdir() if ":" in path.name]
    (tree / "params.yaml").write_text("ingest: {sql: {attach: {crm: 'sqlite:../crm.db'}}}\n")
    with pytest.raises(UnigrecError, match=r"ingest\.sql\.attach: crm is \.\./crm\.db: relative, and outside"):
        shared.share_named(root, tree, "http://127.0.0.1:9")


@pytest.mark.parametrize("name", ["t #x", "a,b", "it's", "50%", "Jörgs Laden", "магазин", "plain"])
def test_dvc_finds_the_cache_of_the_repository_whatever_the_folder_is_called(tmp_path, name):
    root = tmp_path / name
    tree = root / "state/tree"
    (tree / ".dvc").mkdir(parents=True)
    Repo.init(str(root), no_scm=True).close()
    shared.share_state(root, tree)
    assert cache_folder(str(tree)) == root / ".dvc/cache"
    with Repo(str(tree)) as repo:
        assert repo.config["core"]["no_scm"] is True


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
