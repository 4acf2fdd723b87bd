"""Runs git, says which commit is checked out, and names the two files that a run rewrites in a checkout."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

PARAMS, DVC_LOCK = Path("params.yaml"), Path("dvc.lock")
# Variables that point git to another repository or index; git sets them for its hooks, say.
_LOCAL = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")


def git(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run git on a folder's own repository; the exit status is the caller's to judge.

    Args:
        environment: variables in addition to this process's.

    Raises:
        FileNotFoundError: git is not installed.
    """
    variables = {**without_git(os.environ), "LC_ALL": "C", **environment}
    return subprocess.run(["git", "-C", str(folder), *arguments], env=variables, capture_output=True, check=False)


def trust_clone(folder: Path = Path()) -> bool:
    """Let git work in a clone that belongs to another user, here and in processes started from now on.

    Git refuses such a clone ("dubious ownership"), as in a container that mounts it. We run its code in any case. The
    setting is in the environment alone: it leaves no trace. Returns whether the clone belongs to another user.
    """
    folder = folder.resolve()
    try:
        owners = {folder.stat().st_uid, (folder / ".git").stat().st_uid}
    except OSError:  # no repository
        return False
    if owners == {os.geteuid()}:
        return False
    given = os.environ.get("GIT_CONFIG_COUNT", "")
    count = int(given) if given.isdecimal() else 0
    if str(folder) not in {os.environ.get(f"GIT_CONFIG_VALUE_{number}") for number in range(count)}:
        os.environ[f"GIT_CONFIG_KEY_{count}"], os.environ[f"GIT_CONFIG_VALUE_{count}"] = "safe.directory", str(folder)
        os.environ["GIT_CONFIG_COUNT"] = str(count + 1)
    return True


def without_git(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without the variables that point git to another repository or index."""
    return {name: value for name, value in environment.items() if name not in _LOCAL}


def git_commit() -> str:
    """The checked-out commit, with `-dirty` if tracked files differ from it; `unknown` without git or a repository.

    It names the code. params.yaml and dvc.lock, which a run rewrites, do not count as changes: a bundle holds the first
    and the hash of the second.
    """
    here, rewritten = Path(), [f":(exclude){name}" for name in (PARAMS, DVC_LOCK)]
    try:
        commit = git(here, "rev-parse", "--verify", "HEAD")
        clean = git(here, "diff", "--quiet", "HEAD", "--", ".", *rewritten).returncode == 0
    except OSError:  # git is not installed
        return "unknown"
    return "unknown" if commit.returncode else commit.stdout.decode().strip() + ("" if clean else "-dirty")
