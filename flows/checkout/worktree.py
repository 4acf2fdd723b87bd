"""The git side of a scheduled run: a worktree of its own, and its params and dvc.lock as a commit on a new branch.

Every run begins from committed code and params (`base_of`), and ends as one commit on top of them, on a branch of its
own, `retrain/<date>-<commit>`. The newest such branch holds what runs have found out. The next run takes it over
(`inherit`) until people have merged it or decided otherwise.

A run does not touch people's checkout, index, branches or hooks: it commits with an index of its own, and only creates
branches. A killed run leaves nothing but a worktree, which the next run removes.
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
CHECKPOINTS = WORKTREES / "checkpoints"  # they outlive a worktree; people's own trainings use another folder
LOCK = WORKTREES / "lock"
BRANCHES = "retrain"  # prefix of retrain/<date>-<commit>
REF_SETTING = "unigrec.retrainRef"  # git config: the revision that scheduled runs begin from
MAIN = "main"
WHO = {"NAME": "UniGRec", "EMAIL": "unigrec@localhost"}  # makes the commits, also where the repository names nobody
IDENTITY = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in WHO.items()}
NO_HOOKS = ("-c", "core.hooksPath=/dev/null")


class Base(NamedTuple):
    """The commit that a run begins from, and the name by which it was found."""

    ref: str
    commit: str


class Inherited(NamedTuple):
    """What a run takes over from the newest unmerged run.

    commit: of that run. lock: its dvc.lock. start: its `warm_start.path`. None:
        there is no such run, or that of the base counts.
    """

    commit: str | None
    lock: bytes | None
    start: str | None


def repository(folder: Path) -> Path:
    """The absolute folder, checked to be the top of a git repository that holds a commit.

    Raises:
        UnigrecError: it is not; the message says what to do.
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
    """The revision in `git config unigrec.retrainRef`; without it, the branch main; without that, what is checked out.

    Raises:
        UnigrecError: the setting names no commit.
    """
    named = _git(root, "config", "--default", "", "--get", REF_SETTING)
    has_main = _object(root, f"refs/heads/{MAIN}") is not None
    ref = named or (MAIN if has_main else "HEAD")
    commit = _object(root, f"{f'refs/heads/{MAIN}' if ref == MAIN and has_main else ref}^{{commit}}")
    if commit is None:
        raise UnigrecError(f"git config {REF_SETTING} is {named!r}, but no commit is called so")
    return Base(ref, commit)


def inherit(root: Path, base: str) -> Inherited:
    """What the newest scheduled run found out, unless the base holds something newer.

    A file or value is taken over only if the base still has it as it was when that run began: what people have changed
    since is their decision. dvc.lock is taken whole or not at all, because a mixture would claim outputs that no run
    made.
    """
    branches = ("--count=1", "--sort=-committerdate", "--format=%(objectname)", f"refs/heads/{BRANCHES}/")
    newest = _git(root, "for-each-ref", *branches)
    if not newest or _succeeds(root, "merge-base", "--is-ancestor", newest, base):
        return Inherited(None, None, None)
    # Compare the base with the commit from which the newest run began.
    began = _git(root, "merge-base", newest, base, allowed=1) or None
    lock = start = None
    if _object(root, f"{base}:{DVC_LOCK}") == (began and _object(root, f"{began}:{DVC_LOCK}")):
        lock = _content(root, newest, DVC_LOCK)
    ours, theirs = _start_in(root, base), _start_in(root, newest)
    if began is not None and ours == _start_in(root, began) and theirs != ours:
        start = theirs
    return Inherited(newest, lock, start)


def make(root: Path, base: str, inherited: Inherited) -> Path:
    """Make a worktree of the base, with the inherited dvc.lock. Returns its folder. Raises UnigrecError."""
    remove(root)
    tree = root / TREE
    tree.parent.mkdir(parents=True, exist_ok=True)
    _git(root, "worktree", "add", "--quiet", "--detach", str(tree), base)
    _put_lock(tree, inherited)
    return tree


def remove(root: Path) -> None:
    """Remove the worktree, even one that a killed run left half made. What it links to stays."""
    tree = root / TREE
    shutil.rmtree(tree, ignore_errors=True)
    _succeeds(root, "worktree", "remove", "--force", "--force", str(tree))  # twice: a killed `add` leaves it locked


def record(root: Path, newest: str | None, message: str) -> str | None:
    """Commit the worktree's params.yaml and dvc.lock on a new branch.

    Args:
        newest: the run whose dvc.lock and params were taken over.

    Returns:
        The branch's name; None if both files are the same as in `newest` (without one: in the base).

    Raises:
        UnigrecError: git refuses.
    """
    tree = root / TREE
    present = [name for name in (PARAMS, DVC_LOCK) if (tree / name).is_file()]
    # Add both files to the base's content, in an index of our own.
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        _git(tree, "read-tree", "HEAD", more=index)
        _git(tree, "add", "--force", "--", *map(str, present), more=index)
        content = _git(tree, "write-tree", more=index)
    before = newest or "HEAD"
    if all(_object(tree, f"{content}:{name}") == _object(tree, f"{before}:{name}") for name in (PARAMS, DVC_LOCK)):
        return None
    # Commit them on a new branch. The zeros ask git to refuse if the branch exists.
    commit = _git(tree, "commit-tree", content, "-p", "HEAD", "-m", message)
    branch = f"{BRANCHES}/{time.strftime('%Y-%m-%d', time.gmtime())}-{commit[:8]}"
    _git(root, "update-ref", f"refs/heads/{branch}", commit, "0" * len(commit))
    return branch


def keep_start(root: Path) -> str | None:
    """Commit where an unfinished run was to start from, before its worktree is removed.

    A run makes that choice when it takes new data, and would not make it again for the same data. All else that the run
    had done comes back from DVC's cache and the checkpoints. Returns the branch's name; None: there is nothing to keep.
    """
    tree = root / TREE
    if not (tree / ".git").is_file() or not _succeeds(tree, "rev-parse", "--verify", "--quiet", "HEAD"):
        return None  # the run was killed while it made or removed the worktree
    base = _git(tree, "rev-parse", "HEAD")
    inherited = inherit(root, base)
    chosen = start_of((tree / PARAMS).read_bytes()) if (tree / PARAMS).is_file() else None
    if chosen in (None, inherited.start, _start_in(root, base)):
        return None
    _put_lock(tree, inherited)  # the file there may be half written
    return record(root, inherited.commit, "Scheduled retraining, not finished: where it starts from")


def start_of(params: bytes) -> str | None:
    """`warm_start.path` of a params file; None where it has none."""
    try:
        return parse_yaml(params.decode(), "params")["warm_start"]["path"]
    except (UnigrecError, UnicodeDecodeError, TypeError, KeyError):
        return None


def _put_lock(tree: Path, inherited: Inherited) -> None:
    """Write dvc.lock as it was when the run began."""
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
    """The id of the object that a revision names, or None."""
    return _git(root, "rev-parse", "--verify", "--quiet", name, allowed=1) or None


def _succeeds(root: Path, *arguments: str) -> bool:
    return _run(root, arguments).returncode == 0


def _git(root: Path, *arguments: str, allowed: int = 0, more: dict[str, str] | None = None) -> str:
    """What git prints. allowed: an exit status that means no, not failure. Raises UnigrecError."""
    done = _run(root, arguments, more)
    if done.returncode not in (0, allowed):
        raise UnigrecError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace").strip()


def _run(root: Path, arguments: tuple[str, ...], more: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    return git(root, *NO_HOOKS, *arguments, **IDENTITY, **(more or {}))
