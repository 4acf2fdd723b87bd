"""Git repositories for tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

PARAMS, COLD = "seed: 1\nwarm_start:\n  path: {start}\n", "src/cold.py"


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout


def commit(folder: Path, message: str = "by people", **files: str | None) -> str:
    for name, text in files.items():
        path = folder / name.replace("__", ".")
        path.unlink(missing_ok=True) if text is None else path.write_text(text)
        git(folder, "add", "--all", "--", path.name)
    git(folder, "-c", "user.name=joe", "-c", "user.email=joe@host", "commit", "--quiet", "-m", message)
    return git(folder, "rev-parse", "HEAD").strip()


def branches(root: Path) -> list[str]:
    return git(root, "for-each-ref", "--format=%(refname:short)", "refs/heads/retrain/").split()


def state_of(root: Path) -> tuple[str, ...]:
    """State of the user's clone: branch, commit, index, changes and worktrees."""
    asked = (("symbolic-ref", "HEAD"), ("rev-parse", "HEAD", "main"), ("status", "--porcelain"), ("worktree", "list"))
    return (*(git(root, *arguments) for arguments in asked), (root / ".git/index").read_bytes().hex())
