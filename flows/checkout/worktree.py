"""The git side of a scheduled run: a worktree of its own, and its params and dvc.lock as a commit on a new branch.

Every run begins from the code and params that are committed (`base_of`), and ends as one commit on top of them, on a
branch of its own, `retrain/<date>-<commit>`. What a run has found out by itself lies in the newest such branch: the
next run takes it over (`inherit`), until people have merged it or decided otherwise.

Nobody's checkout, index, branches or hooks are touched: commits are made with an index of their own, and branches are
only ever created. So a killed run leaves a worktree and nothing else, which the next run removes.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from unigrec.base import paths
from unigrec.base.errors import UnigrecError
from unigrec.base.files import parse_yaml
from unigrec.base.git import DVC_LOCK, PARAMS, git

WORKTREES = paths.STATE / "worktrees"
TREE = WORKTREES / "retrain"
CHECKPOINTS = WORKTREES / "checkpoints"  # they outlive a worktree; people's own trainings have others
LOCK = WORKTREES / "lock"
BRANCHES = "retrain"  # /<date>-<commit>
REF_SETTING = "unigrec.retrainRef"  # git config: what scheduled runs begin from
MAIN = "main"
WHO = {"NAME": "UniGRec", "EMAIL": "unigrec@localhost"}  # makes the commits, also where the repository names nobody
IDENTITY = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in WHO.items()}
NO_HOOKS = ("-c", "core.hooksPath=/dev/null")


class Base(NamedTuple):
    """What a run begins from: `commit`, and the name it was found by."""

    ref: str
    commit: str


class Inherited(NamedTuple):
    """What a run takes over from the newest unmerged one.

    commit: of that run, or None. lock: its dvc.lock, None where the base's is to be used. start: its `warm_start.path`,
    likewise.
    """

    commit: str | None
    lock: bytes | None
    start: str | None


def repository(folder: Path) -> Path:
    """The folder, absolute, once it is sure that it is the top of a git repository that holds a commit.

    Raises:
        UnigrecError: it is not; says what to do.
    """
    folder = folder.resolve()
    instead = "a scheduled run works in a git worktree; without git: python -m flows.retrain"
    try:
        top = _git(folder, "rev-parse", "--show-toplevel")
    except FileNotFoundError as error:
        raise UnigrecError(f"git is not installed; {instead}") from error
    except UnigrecError as error:
        raise UnigrecError(f"{folder}: no git repository ({error}); {instead}") from error
    if Path(top).resolve() != folder:
        raise UnigrecError(f"{folder}: is inside the git repository {top}, not its top; {instead}")
    if _object(folder, "HEAD^{commit}") is None:
        raise UnigrecError(f"{folder}: the repository holds no commit yet; commit the project; {instead}")
    if _object(folder, f"refs/heads/{BRANCHES}") is not None:
        raise UnigrecError(
            f"{folder}: a branch named {BRANCHES} is in the way of {BRANCHES}/...; rename it: git branch -m"
        )
    return folder


def base_of(root: Path) -> Base:
    """What `git config unigrec.retrainRef` names; else the branch main; else what is checked out.

    Raises:
        UnigrecError: what the setting names is no commit.
    """
    named = _git(root, "config", "--default", "", "--get", REF_SETTING)
    has_main = _object(root, f"refs/heads/{MAIN}") is not None
    ref = named or (MAIN if has_main else "HEAD")
    commit = _object(root, f"{f'refs/heads/{MAIN}' if ref == MAIN and has_main else ref}^{{commit}}")
    if commit is None:
        raise UnigrecError(f"git config {REF_SETTING} is {named!r}, but no commit is called so")
    return Base(ref, commit)


def inherit(root: Path, base: str) -> Inherited:
    """What the newest scheduled run found out, as far as the base holds nothing newer.

    A file or value is taken over where the base still has what it had when the run began: what people have changed
    since is their decision. dvc.lock is taken whole or not at all; a mixture would claim outputs that no run made.
    """
    branches = ("--count=1", "--sort=-committerdate", "--format=%(objectname)", f"refs/heads/{BRANCHES}/")
    newest = _git(root, "for-each-ref", *branches)
    if not newest or _succeeds(root, "merge-base", "--is-ancestor", newest, base):
        return Inherited(None, None, None)
    began = _git(root, "merge-base", newest, base, allowed=1) or None
    lock = start = None
    if _object(root, f"{base}:{DVC_LOCK}") == (began and _object(root, f"{began}:{DVC_LOCK}")):
        lock = _content(root, newest, DVC_LOCK)
    ours, theirs = _start_in(root, base), _start_in(root, newest)
    if began is not None and ours == _start_in(root, began) and theirs != ours:
        start = theirs
    return Inherited(newest, lock, start)


def make(root: Path, base: str, inherited: Inherited) -> Path:
    """A new worktree of the base, with the dvc.lock that is taken over. Returns its folder. Raises UnigrecError."""
    remove(root)
    tree = root / TREE
    tree.parent.mkdir(parents=True, exist_ok=True)
    _git(root, "worktree", "add", "--quiet", "--detach", str(tree), base)
    _put_lock(tree, inherited)
    return tree


def remove(root: Path) -> None:
    """Remove the worktree, whatever state a killed run left it in. What it links to stays."""
    tree = root / TREE
    shutil.rmtree(tree, ignore_errors=True)
    _succeeds(root, "worktree", "remove", "--force", "--force", str(tree))  # twice: locked, by a killed `add`


def record(root: Path, newest: str | None, message: str) -> str | None:
    """Commit the worktree's params.yaml and dvc.lock on a new branch.

    Args:
        newest: the run whose dvc.lock and params were taken over.

    Returns:
        The branch's name, or None where both files are as in `newest` (or, without one, in the base).

    Raises:
        UnigrecError: git refuses.
    """
    tree = root / TREE
    present = [name for name in (PARAMS, DVC_LOCK) if (tree / name).is_file()]
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        _git(tree, "read-tree", "HEAD", more=index)
        _git(tree, "add", "--force", "--", *map(str, present), more=index)
        content = _git(tree, "write-tree", more=index)
    before = newest or "HEAD"
    if all(_object(tree, f"{content}:{name}") == _object(tree, f"{before}:{name}") for name in (PARAMS, DVC_LOCK)):
        return None
    commit = _git(tree, "commit-tree", content, "-p", "HEAD", "-m", message)
    branch = f"{BRANCHES}/{time.strftime('%Y-%m-%d', time.gmtime())}-{commit[:8]}"
    _git(root, "update-ref", f"refs/heads/{branch}", commit, "0" * len(commit))
    return branch


def keep_start(root: Path) -> str | None:
    """Before a worktree is removed whose run did not finish: commit where that run was to start from, if it had chosen.

    The choice falls when new data is taken, and is not made again for the same data. All else that the run had done
    comes back from DVC's cache and the checkpoints. Returns the branch's name, or None where there is nothing to keep.
    """
    tree = root / TREE
    if not (tree / ".git").is_file() or not _succeeds(tree, "rev-parse", "--verify", "--quiet", "HEAD"):
        return None  # killed while it was made or removed
    base = _git(tree, "rev-parse", "HEAD")
    inherited = inherit(root, base)
    chosen = start_of((tree / PARAMS).read_bytes()) if (tree / PARAMS).is_file() else None
    if chosen in (None, inherited.start, _start_in(root, base)):
        return None
    _put_lock(tree, inherited)  # what lies there may be cut off
    return record(root, inherited.commit, "Scheduled retraining, not finished: where it starts from")


def start_of(params: bytes) -> str | None:
    """`warm_start.path` of a params file; None where it has none."""
    try:
        return parse_yaml(params.decode(), "params")["warm_start"]["path"]
    except (UnigrecError, UnicodeDecodeError, TypeError, KeyError):
        return None


def _put_lock(tree: Path, inherited: Inherited) -> None:
    """dvc.lock as the run began with it."""
    lock = inherited.lock if inherited.lock is not None else _content(tree, "HEAD", DVC_LOCK)
    if lock is None:
        (tree / DVC_LOCK).unlink(missing_ok=True)
    else:
        (tree / DVC_LOCK).write_bytes(lock)


def _start_in(root: Path, commit: str) -> str | None:
    content = _content(root, commit, PARAMS)
    return None if content is None else start_of(content)


def _content(root: Path, commit: str, path: Path) -> bytes | None:
    blob = _object(root, f"{commit}:{path}")
    return None if blob is None else _run(root, ("cat-file", "blob", blob)).stdout


def _object(root: Path, name: str) -> str | None:
    """The id that a revision names, or None."""
    return _git(root, "rev-parse", "--verify", "--quiet", name, allowed=1) or None


def _succeeds(root: Path, *arguments: str) -> bool:
    return _run(root, arguments).returncode == 0


def _git(root: Path, *arguments: str, allowed: int = 0, more: dict[str, str] | None = None) -> str:
    """What git prints. allowed: an exit status that says no, and is no failure. Raises UnigrecError."""
    done = _run(root, arguments, more)
    if done.returncode not in (0, allowed):
        raise UnigrecError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace").strip()


def _run(root: Path, arguments: tuple[str, ...], more: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    return git(root, *NO_HOOKS, *arguments, **IDENTITY, **(more or {}))
