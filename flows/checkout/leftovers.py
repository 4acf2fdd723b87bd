"""Removes what runs leave on disk and nobody needs any more. Each function returns what it removed.

None of them may run during a training: `flows.housekeeping` holds its lock. With `dry`, they remove nothing and return
what they would remove.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

from flows.checkout.worktree import BRANCHES, CHECKPOINTS, TREE, keep_start, remove
from flows.stages.dvc_state import forget_dead_holders
from flows.stages.graph import cache_folder
from flows.stages.processes import child_environment
from unigrec.base import paths
from unigrec.base.errors import BusyError, UnigrecError
from unigrec.base.git import DVC_LOCK, git

GIT_LOCKS = ("*.lock", "refs/**/*.lock", "worktrees/*/*.lock")
BY_AGE = (paths.CHECKPOINTS, CHECKPOINTS, paths.COMPARISONS)  # folders whose entries are useful only while young
# DVC's cache keeps what the dvc.lock files of these name. Remotes are never touched.
KEEP = ("--workspace", "--all-branches", "--all-tags", "--all-experiments")


def remove_stale_locks(root: Path, hours: float, dry: bool = False) -> list[str]:
    """Remove the lock files of a killed git, by age. For DVC's own, see dvc_state.py."""
    found = [path for pattern in GIT_LOCKS for path in (root / ".git").glob(pattern) if _age(path) > hours * 3600]
    return _remove(root, found, dry)


def remove_old_folders(root: Path, days: float, dry: bool = False) -> list[str]:
    """Remove checkpoints, comparisons and the worktree of a killed run to which nothing was written for `days`.

    Bundles stay: the next training may start from one.
    """
    entries = [entry for folder in BY_AGE if (root / folder).is_dir() for entry in sorted((root / folder).iterdir())]
    done = _remove(root, [entry for entry in entries if _age(entry) > days * 86400], dry)
    if (root / TREE).exists() and _age(root / TREE) > days * 86400:
        if not dry:
            keep_start(root)
            remove(root)
        done.append(str(TREE))
    return done


def remove_old_reports(root: Path, days: float, versions: set[str], dry: bool = False) -> list[str]:
    """Remove published reports of model versions that are gone and to which nothing was written for `days`.

    Args:
        versions: the numbers of the versions that exist.
    """
    folder = root / paths.REPORTS
    found = [entry for entry in sorted(folder.iterdir()) if entry.name not in versions] if folder.is_dir() else []
    return _remove(root, [entry for entry in found if _age(entry) > days * 86400], dry)


def remove_old_branches(root: Path, days: float, needed: set[str], dry: bool = False) -> list[str]:
    """Delete branches of scheduled runs older than `days`. Names each with its commit, which git keeps for a while.

    Args:
        needed: hashes of dvc.lock of model versions with an alias. Their branches stay, and so do the newest and those
            that a worktree has checked out.
    """
    if not (root / ".git").exists():
        return []
    wanted = ("--sort=-committerdate", "--format=%(refname) %(committerdate:unix)", f"refs/heads/{BRANCHES}/")
    lines = _git(root, "for-each-ref", *wanted)
    checked_out = _of_worktrees(root, "branch")
    done = []
    for line in lines.splitlines()[1:]:
        name, committed = line.split()
        if name in checked_out:
            continue
        lock = _git(root, "show", f"{name}:{DVC_LOCK}")
        if time.time() - int(committed) < days * 86400 or sha256(lock.encode()).hexdigest() in needed:
            continue
        commit = _git(root, "rev-parse", name).strip()
        if not dry:
            _git(root, "update-ref", "-d", name, commit)
        done.append(f"{name.removeprefix('refs/heads/')} ({commit})")
    return done


def collect_cache(root: Path, dry: bool = False) -> list[str]:
    """Remove from DVC's cache what no dvc.lock of this folder, a worktree, a branch, a tag or an experiment names.

    Raises:
        BusyError: another DVC process is at work here.
        UnigrecError: DVC fails; the message quotes it.
    """
    # Without any dvc.lock, the whole cache would count as unused.
    others = [str(tree) for tree in _worktrees(root) if (tree / DVC_LOCK).is_file()]
    named = (root / DVC_LOCK).is_file() or others or _git(root, "log", "--all", "--max-count=1", "--", str(DVC_LOCK))
    if not named:
        return []
    # Let DVC collect. A list of dead holders would stop it.
    scope = KEEP if (root / ".git").exists() else KEEP[:1]
    command = [sys.executable, "-m", "dvc", "gc", *scope, "--force", *(["--dry"] if dry else [])]
    command += ["--projects", *others] if others else []
    forget_dead_holders(str(root))
    cache = Path(cache_folder(str(root)))
    before = _size(cache)
    done = subprocess.run(command, cwd=root, env=child_environment(os.environ), capture_output=True, text=True)
    if "acquire lock" in done.stderr:
        raise BusyError(f"another DVC is at work in {root}")
    if done.returncode:
        raise UnigrecError(f"dvc gc failed in {root}: {(done.stdout + done.stderr).strip()}")
    # Report what DVC said about the cache, and how much smaller it is.
    said = [line for line in done.stdout.splitlines() if "cache" in line and line.startswith(("Removed", "No unused"))]
    freed = (before - _size(cache)) / 1e6
    return [f"{' '.join(said)} {freed:.1f} MB freed"] if any(line.startswith("Removed") for line in said) else []


def _remove(root: Path, paths: list[Path], dry: bool) -> list[str]:
    for path in [] if dry else paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return [str(path.relative_to(root)) for path in paths]


def _age(path: Path) -> float:
    """Seconds since the last write to the path or anything below it."""
    newest = max((entry.lstat().st_mtime for entry in [path, *path.rglob("*")]), default=0.0)
    return time.time() - newest


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _worktrees(root: Path) -> list[Path]:
    """Other worktrees of the repository: a killed run's, or people's."""
    return [Path(path) for path in _of_worktrees(root, "worktree") if Path(path) != root.resolve()]


def _of_worktrees(root: Path, key: str) -> list[str]:
    """What git says of every worktree, the repository's own included: its `worktree` (the folder), its `branch`."""
    listed = [line.partition(" ") for line in _git(root, "worktree", "list", "--porcelain").splitlines()]
    return [value for found, _, value in listed if found == key]


def _git(root: Path, *arguments: str) -> str:
    """What git prints; nothing outside a repository."""
    return git(root, *arguments).stdout.decode(errors="replace")
