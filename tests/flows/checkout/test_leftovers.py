"""What housekeeping removes from disk, and what it must never remove."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
from flows.checkout.leftovers import (
    collect_cache,
    remove_old_branches,
    remove_old_folders,
    remove_old_reports,
    remove_stale_locks,
)

from unigrec.base import paths

HOUR = 3600


def git(root: Path, *arguments: str, when: float | None = None) -> str:
    date = {"GIT_COMMITTER_DATE": f"{int(when)} +0000", "GIT_AUTHOR_DATE": f"{int(when)} +0000"} if when else {}
    who = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    command = ["git", *who, *arguments]
    done = subprocess.run(command, cwd=root, env={**os.environ, **date}, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "dvc.lock").write_text("of main")
    git(folder, "add", "--all")
    git(folder, "commit", "-qm", "first")
    return folder


def aged(path: Path, hours: float, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    then = time.time() - hours * HOUR
    os.utime(path, (then, then))
    os.utime(path.parent, (then, then))
    return path


def write_branch(root: Path, name: str, lock: str, days: float) -> str:
    git(root, "switch", "-qc", name, "main")
    (root / "dvc.lock").write_text(lock)
    git(root, "commit", "-qam", name, when=time.time() - days * 24 * HOUR)
    git(root, "switch", "-q", "main")
    return git(root, "rev-parse", name)


def test_old_locks_of_git_go_and_young_ones_stay(repository):
    old = aged(repository / ".git/index.lock", 7)
    young = aged(repository / ".git/refs/heads/main.lock", 1)
    assert remove_stale_locks(repository, 6, dry=True) == [".git/index.lock"]
    assert old.exists()
    assert remove_stale_locks(repository, 6) == [".git/index.lock"]
    assert (old.exists(), young.exists()) == (False, True)
    assert (repository / ".git/index").exists()


def test_checkpoints_that_nothing_has_touched_go_and_bundles_stay(tmp_path):
    old = aged(tmp_path / paths.CHECKPOINTS / "joint/k.safetensors", 15 * 24)
    aged(tmp_path / paths.CHECKPOINTS / "teacher/old.safetensors", 15 * 24)
    young = aged(tmp_path / paths.CHECKPOINTS / "teacher/young.safetensors", 1)
    bundle = aged(tmp_path / paths.BUNDLES / "b/manifest.json", 400 * 24)
    assert remove_old_folders(tmp_path, 14) == [str(paths.CHECKPOINTS / "joint")]
    assert (old.exists(), young.exists(), bundle.exists()) == (False, True, True)


def test_old_reports_of_versions_that_are_gone_go(tmp_path):
    assert remove_old_reports(tmp_path, 14, {"1"}) == []
    pages = {name: aged(tmp_path / paths.REPORTS / name / "report.html", 24 * 30) for name in ("1", "2")}
    young = aged(tmp_path / paths.REPORTS / "3/report.html", 24)
    assert remove_old_reports(tmp_path, 14, {"1"}, dry=True) == [str(paths.REPORTS / "2")]
    assert pages["2"].exists()
    assert remove_old_reports(tmp_path, 14, {"1"}) == [str(paths.REPORTS / "2")]
    assert (pages["1"].exists(), pages["2"].exists(), young.exists()) == (True, False, True)


def test_old_branches_of_runs_go_but_not_the_newest_nor_what_a_named_version_came_from(repository):
    oldest = write_branch(repository, "retrain/a", "lock a", 200)
    write_branch(repository, "retrain/champion", "lock c", 150)
    write_branch(repository, "retrain/young", "lock y", 10)
    write_branch(repository, "people", "lock p", 300)
    needed = {sha256(b"lock c").hexdigest()}
    assert remove_old_branches(repository, 90, needed, dry=True) == [f"retrain/a ({oldest})"]
    assert remove_old_branches(repository, 90, needed) == [f"retrain/a ({oldest})"]
    left = git(repository, "for-each-ref", "--format=%(refname:short)", "refs/heads").splitlines()
    assert left == ["main", "people", "retrain/champion", "retrain/young"]
    assert remove_old_branches(repository, 1, set()) != []
    assert git(repository, "rev-parse", "retrain/young")  # the newest, however old


def test_an_old_branch_that_somebody_has_checked_out_stays(repository):
    write_branch(repository, "retrain/newest", "lock n", 200)
    for name in ("retrain/free", "retrain/here", "retrain/there"):
        write_branch(repository, name, "lock", 300)
    git(repository, "worktree", "add", "-q", "../theirs", "retrain/there")
    git(repository, "switch", "-q", "retrain/here")
    commit = git(repository, "rev-parse", "retrain/free")
    assert remove_old_branches(repository, 90, set()) == [f"retrain/free ({commit})"]
    assert git(repository, "rev-parse", "HEAD")
    assert git(repository.parent / "theirs", "rev-parse", "HEAD")


@pytest.mark.slow
def test_the_cache_keeps_what_the_folder_and_any_branch_names_and_loses_the_rest(repository):
    """The cache holds one file each of the folder, a branch and a worktree, and one that nothing names any more."""
    git(repository, "rm", "-q", "dvc.lock")
    dvc(repository, "init", "-q")
    git(repository, "commit", "-qm", "a project")
    names = {}
    for text in ("forgotten", "of a branch", "of a worktree", "of the folder"):
        (repository / "in").write_text(text)
        (repository / "dvc.yaml").write_text("stages: {copy: {cmd: cp in out, deps: [in], outs: [out]}}")
        dvc(repository, "repro", "-q")
        names[text] = cached(repository)
        if text == "of a branch":
            git(repository, "add", "--all")
            git(repository, "commit", "-qm", text)
            git(repository, "branch", "retrain/one")
            git(repository, "reset", "-q", "--hard", "HEAD~1")
        if text == "of a worktree":
            git(repository, "worktree", "add", "-q", "--detach", "../theirs")
            shutil.copy(repository / "dvc.lock", repository.parent / "theirs")
            shutil.copy(repository / "dvc.yaml", repository.parent / "theirs")
    everything = names["of the folder"]
    collect_cache(repository, dry=True)
    assert cached(repository) == everything
    collect_cache(repository)
    lost = names["forgotten"]
    assert len(lost) == 1
    assert cached(repository) == everything - lost


def test_without_any_dvc_lock_the_cache_is_left_alone(tmp_path):
    (tmp_path / ".dvc/cache/files/md5/aa").mkdir(parents=True)
    assert collect_cache(tmp_path) == []  # no DVC is started: there is no project


def dvc(root: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, check=True, capture_output=True)


def cached(root: Path) -> set[str]:
    return {path.name for path in (root / ".dvc/cache/files").rglob("*") if path.is_file()}
