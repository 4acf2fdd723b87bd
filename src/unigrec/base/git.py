"""What git says about the checkout, and the two files that a run rewrites in it."""

from __future__ import annotations

import subprocess
from pathlib import Path

PARAMS, DVC_LOCK = Path("params.yaml"), Path("dvc.lock")


def git_commit() -> str:
    """The checked-out commit, `-dirty` where tracked files differ from it; `unknown` without git or a repository.

    It names the code. params.yaml and dvc.lock, which a run rewrites, do not count: a bundle holds the one and the hash
    of the other.
    """
    head = ["git", "rev-parse", "--verify", "HEAD"]
    changes = ["git", "diff", "--quiet", "HEAD", "--", ".", *(f":(exclude){name}" for name in (PARAMS, DVC_LOCK))]
    try:
        commit = subprocess.run(head, capture_output=True, text=True, check=False)
        clean = subprocess.run(changes, capture_output=True, check=False).returncode == 0
    except OSError:  # no git on this machine
        return "unknown"
    return "unknown" if commit.returncode else commit.stdout.strip() + ("" if clean else "-dirty")
