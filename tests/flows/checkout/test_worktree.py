"""The git side of a scheduled run, on small repositories. People's checkout, index and branches must not change."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from flows.checkout import worktree
from support.repository import COLD, PARAMS, branches, commit, git, state_of
from unigrec.base.errors import UnigrecError

BUNDLE = "state/bundles/b1"


@pytest.fixture
def later(monkeypatch):
    """A function that moves the clock of commits on by a minute."""
    clock = iter(range(1_800_000_000, 1_900_000_000, 60))

    def tick() -> None:
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"{next(clock)} +0000")

    return tick


def scheduled(root: Path, lock: str = "run 1\n", start: str = COLD, finish: bool = True) -> str | None:
    """A run that leaves these files. Returns its branch, if it made one."""
    base = worktree.base_of(root).commit
    before = worktree.inherit(root, base)
    tree = worktree.make(root, base, before)
    (tree / "params.yaml").write_text(PARAMS.format(start=start))
    (tree / "dvc.lock").write_text(lock)
    if not finish:
        return None
    branch = worktree.record(root, before.commit, "a run")
    worktree.remove(root)
    return branch


def test_a_run_is_one_commit_on_its_code_and_nothing_of_peoples_is_touched(root):
    (root / "code.py").write_text("half a thought\n")
    (root / "params.yaml").write_text("not even YAML: [\n")
    (root / "new.py").write_text("not committed\n")
    git(root, "add", "new.py")
    before = state_of(root)
    branch = scheduled(root, start=BUNDLE)
    assert branches(root) == [branch]
    assert state_of(root) == before
    assert git(root, "rev-parse", f"{branch}^") == git(root, "rev-parse", "main")
    assert git(root, "show", "--name-only", "--format=%an %ce", branch).split() == [
        *("UniGRec", "unigrec@localhost", "dvc.lock", "params.yaml")
    ]
    assert git(root, "show", f"{branch}:params.yaml") == PARAMS.format(start=BUNDLE)
    assert not (root / worktree.TREE).exists()


def test_where_nothing_changed_there_is_no_commit(root, later):
    later()
    assert scheduled(root)
    later()
    assert scheduled(root) is None
    commit(root, code__py="2\n")  # code that no stage depends on, say
    assert scheduled(root) is None
    assert len(branches(root)) == 1


def test_the_next_run_takes_over_what_nobody_has_merged_yet(root, later):
    later()
    scheduled(root, lock="run 1\n", start=BUNDLE)
    later()
    branch = scheduled(root, lock="run 2\n", start=BUNDLE)
    newest = git(root, "rev-parse", branch or "").strip()
    assert worktree.inherit(root, worktree.base_of(root).commit) == (newest, b"run 2\n", BUNDLE)
    base = commit(root, code__py="2\n")
    assert worktree.inherit(root, base) == (newest, b"run 2\n", BUNDLE)
    tree = worktree.make(root, base, worktree.inherit(root, base))
    assert (tree / "dvc.lock").read_text() == "run 2\n"
    assert ((tree / "code.py").read_text(), git(tree, "rev-parse", "HEAD").strip()) == ("2\n", base)


def test_what_people_merged_or_changed_since_is_theirs(root, later):
    later()
    branch = scheduled(root, start=BUNDLE)
    assert branch
    newest = git(root, "rev-parse", branch).strip()
    git(root, "switch", "--quiet", "--create", "other")
    base = commit(root, params__yaml=PARAMS.format(start="state/bundles/theirs"), dvc__lock="theirs\n")
    assert worktree.inherit(root, base) == (newest, None, None)
    git(root, "switch", "--quiet", "main")
    git(root, "merge", "--quiet", "--ff-only", branch)
    assert worktree.inherit(root, worktree.base_of(root).commit) == (None, None, None)
    assert scheduled(root, start=BUNDLE) is None


def test_the_base_is_main_or_what_is_configured_or_what_is_checked_out(root):
    main = git(root, "rev-parse", "main").strip()
    git(root, "switch", "--quiet", "--create", "trial")
    trial = commit(root, code__py="a trial\n")
    assert worktree.base_of(root) == ("main", main)
    git(root, "config", "unigrec.retrainRef", "trial")
    assert worktree.base_of(root) == ("trial", trial)
    git(root, "config", "unigrec.retrainRef", "gone")
    with pytest.raises(UnigrecError, match=r"unigrec.retrainRef is 'gone', but no commit"):
        worktree.base_of(root)
    git(root, "config", "--unset", "unigrec.retrainRef")
    git(root, "branch", "--quiet", "--delete", "--force", "main")
    assert worktree.base_of(root) == ("HEAD", trial)


def break_nothing(root: Path) -> None:
    pass


def lock_it(root: Path) -> None:
    """Lock it, as a killed `git worktree add` does."""
    git(root, "worktree", "lock", str(root / worktree.TREE))
    (root / worktree.TREE / ".git").unlink()


def lose_it(root: Path) -> None:
    subprocess.run(["rm", "-rf", str(root / worktree.TREE)], check=True)


def leave_lock_files(root: Path) -> None:
    (root / ".git/worktrees/retrain/index.lock").touch()
    (root / ".git/worktrees/retrain/HEAD.lock").touch()


@pytest.mark.parametrize("broken", [break_nothing, lock_it, lose_it, leave_lock_files])
def test_after_a_killed_run_the_next_one_goes_on(root, later, broken):
    later()
    scheduled(root, finish=False)
    broken(root)
    later()
    assert worktree.keep_start(root) is None  # it had not chosen where to start from
    assert scheduled(root)
    assert not (root / ".git/worktrees").exists()
    assert len(git(root, "worktree", "list").splitlines()) == 1


@pytest.mark.parametrize("broken", [break_nothing, leave_lock_files])
def test_where_a_killed_run_was_to_start_from_is_kept(root, later, broken):
    later()
    scheduled(root, lock="run 1\n")
    later()
    scheduled(root, lock="cut o", start=BUNDLE, finish=False)
    broken(root)
    later()
    branch = worktree.keep_start(root)
    assert branch
    assert git(root, "show", f"{branch}:dvc.lock") == "run 1\n"
    newest = git(root, "rev-parse", branch).strip()
    assert worktree.inherit(root, worktree.base_of(root).commit) == (newest, b"run 1\n", BUNDLE)
    assert worktree.keep_start(root) is None  # once
    worktree.remove(root)
    assert worktree.keep_start(root) is None  # and not the repository's own params, once the worktree is gone


def test_a_run_that_was_killed_before_its_params_were_settled_loses_nothing(root, later):
    later()
    scheduled(root, start=BUNDLE)
    later()
    scheduled(root, start=COLD, finish=False)  # as it was checked out
    assert worktree.keep_start(root) is None
    assert worktree.inherit(root, worktree.base_of(root).commit).start == BUNDLE


def test_hooks_and_a_callers_git_variables_are_left_out(root, monkeypatch, tmp_path):
    hook = root / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\ntouch hooked\nexit 1\n")
    hook.chmod(0o755)
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index of a caller"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    worktree.make(root, worktree.base_of(root).commit, worktree.Inherited(None, None, None))
    assert not (root / worktree.TREE / "hooked").exists()
    assert not (tmp_path / "index of a caller").exists()


def test_without_a_repository_it_says_what_to_do(tmp_path, root):
    outside = tmp_path / "outside"
    outside.mkdir()
    with pytest.raises(UnigrecError, match=r"no git repository.*python -m flows.retrain"):
        worktree.repository(outside)
    (root / "below").mkdir()
    with pytest.raises(UnigrecError, match="not its top"):
        worktree.repository(root / "below")
    git(outside, "init", "--quiet")
    with pytest.raises(UnigrecError, match="holds no commit yet"):
        worktree.repository(outside)
    git(root, "branch", "retrain")
    with pytest.raises(UnigrecError, match="branch named retrain is in the way"):
        worktree.repository(root)
    git(root, "branch", "--delete", "retrain")
    assert worktree.repository(root) == root
