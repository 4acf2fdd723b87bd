"""The scheduled run for real: the project's own code and graph on a small shop's data, next to people at work."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.checkout import worktree
from support import shop
from support.flow_project import EVERY_STAGE, STAGE, versions
from support.living import processes_of, wait_for
from support.project import ROOT
from support.repository import branches, commit, git, state_of
from support.tiny_training import tiny_values
from unigrec.base import paths
from unigrec.base.errors import EXIT_BAD_INPUT, EXIT_REFUSED
from unigrec.config.schema import RegisterParams
from unigrec.registry.tracking import mlflow_client

MAKE_MODEL = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.tiny_model import write_artifacts
from unigrec.base import files, paths
from unigrec.base.paths import Artifacts
assert Path(files.__file__).is_relative_to(Path.cwd()), files.__file__
while Path("data/wait").exists():
    time.sleep(0.1)
write_artifacts(0, Path("data/mode").read_text() == "good", None, 0)
lineage = files.read_json(paths.CURRENT / paths.LINEAGE_FILE)
source = Artifacts().source
files.write_json(source, files.read_json(source) | {{"snapshot": lineage}})
"""
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

ANY_MODEL = {
    **dict.fromkeys(("min_recall_at_10", "min_ndcg_at_10", "min_codebook_utilisation"), 0.0),
    **dict.fromkeys(
        (f"min_margin_over_{name}" for name in ("popularity", "cooccurrence", "own_items", "neighbours")), -1.0
    ),
    **dict.fromkeys(("max_drop_below_teacher", "max_collision_rate"), 1.0),
}
CHANGES = {
    "snapshot": {"start": "champion"},
    "ingest": {"source": "folder", "path": "data/current"},
    "embed": {"dimensions": 8},
    "validate": {"max_row_change": 100.0},  # the tiny model counts rows of its own
    "evaluate": {"bootstrap_resamples": 100},
    "gate": ANY_MODEL,
}

OPTIONS = ("--set", "teacher.epochs=3")


def make_project(folder: Path, files: tuple[str, ...]) -> None:
    """Files of the project, and a first delivery. Nothing is committed yet."""
    for name in (*files, ".dvc/config", ".dvc/.gitignore", ".gitignore"):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(source, target, ignore=ignored) if source.is_dir() else shutil.copy(source, target)
    (folder / "params.yaml").write_text(yaml.safe_dump(tiny_values(CHANGES)))
    (folder / "data/incoming").mkdir(parents=True)
    shop.write(folder / "data/incoming")


def leave_to_people(folder: Path, *files: str) -> None:
    """Commit it on main. Then people work on a branch of theirs, where their changes would break every stage."""
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    commit(folder)
    git(folder, "switch", "--quiet", "--create", "people")
    for name in files:
        with (folder / name).open("a") as file:
            file.write("\nraise SystemExit('half a thought')\n")
    git(folder, "add", files[0])


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """One stage that writes a tiny model. `data/mode` decides how it ends, and it waits while `data/wait` exists."""
    folder = tmp_path_factory.mktemp("scheduled").resolve() / "project"
    make_project(folder, ("src", "flows", "infra"))
    (folder / "make_model.py").write_text(MAKE_MODEL.format(tests=str(ROOT / "tests")))
    (folder / "data/mode").write_text("good")
    deps = ["data/current", "data/mode", "make_model.py"]
    outs = [*(f"artifacts/{name}" for name in EVERY_STAGE), "artifacts/validated.json"]
    stage = {"cmd": STAGE, "deps": deps, "params": ["warm_start.path", "teacher.epochs"], "outs": outs}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"model": stage}}))
    leave_to_people(folder, "params.yaml", "make_model.py", "src/unigrec/data/snapshots.py", "flows/retrain.py")
    return folder


def start(folder: Path, *options: str) -> subprocess.Popen:
    ours = ("PREFECT_", "MLFLOW_", "GIT_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.scheduled", *options],
        cwd=folder,
        env={**clean, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "HOME": str(folder.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder: Path, *options: str) -> tuple[int, str]:
    process = start(folder, *options)
    output = process.communicate(timeout=900)[0]
    return process.returncode, output


def tags_of(folder: Path, version: str) -> dict[str, str]:
    with mlflow_client(
        RegisterParams(tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment="e", model_name="m")
    ) as client:
        return client.get_model_version("unigrec", version).tags


def deliver(folder: Path, step: int) -> None:
    """Deliver one more interaction per user."""
    log = shop.interactions()
    for user in range(shop.USERS):
        log["user_id"].append(f"u{user}")
        log["item_id"].append(f"i{(user + shop.EACH + step) % shop.ITEMS}")
        log["timestamp"].append(shop.MOMENT + 1000 * user + 500 + step)
    shop.write(folder / "data/incoming", log)


def nothing_is_left(folder: Path) -> None:
    assert not (folder / worktree.TREE).exists()
    assert not (folder / ".git/worktrees").exists()
    assert not (folder / "artifacts").exists()
    assert not list((folder / ".git").rglob("*.lock"))


def check_first(project: Path, main: str) -> str:
    """A first run must leave a version with the right tags, and a branch. Returns the branch's name."""
    assert versions(project) == [(1, "challenger champion")]
    [branch] = branches(project)
    lock = git(project, "show", f"{branch}:dvc.lock")
    tags, snapshot = tags_of(project, "1"), (project / paths.CURRENT).resolve().name
    assert git(project, "rev-parse", f"{branch}^").strip() == tags["git_commit"] == main
    assert tags["dvc_lock"] == hashlib.sha256(lock.encode()).hexdigest()
    assert tags["snapshot"] == snapshot
    assert json.loads(tags["params"]) == yaml.safe_load(git(project, "show", f"{branch}:params.yaml"))
    assert json.loads(tags["params"])["teacher"]["epochs"] == 3
    stages = yaml.safe_load(git(project, "show", f"{branch}:dvc.yaml"))["stages"]
    assert set(yaml.safe_load(lock)["stages"]) == set(stages)
    message = git(project, "log", "-1", "--format=%B", branch).splitlines()
    assert {f"snapshot: {snapshot}", f"dvc.lock: {tags['dvc_lock']}"} <= set(message)
    assert list((project / "mlruns").rglob("manifest.json"))
    return branch


def check_nothing_to_do(project: Path, branch: str) -> None:
    code, output = run(project, *OPTIONS)
    assert code == 0, output
    assert "nothing to train: no stage had anything to do" in output
    assert "Running stage" not in output
    assert (versions(project), branches(project)) == ([(1, "challenger champion")], [branch])


def test_a_run_next_to_people_then_nothing_to_do_then_one_that_is_killed(project):
    before, main = state_of(project), git(project, "rev-parse", "main").strip()
    code, output = run(project, *OPTIONS)
    assert code == 0, output
    branch = check_first(project, main)
    assert state_of(project) == before
    nothing_is_left(project)
    check_nothing_to_do(project, branch)

    deliver(project, 0)
    (project / "data/wait").touch()
    process = start(project, *OPTIONS)
    assert process.stdout is not None
    for line in process.stdout:
        if "Running stage 'model'" in line:
            break
    code, output = run(project)
    assert (code, f"at work already: another run is at work in this folder (process {process.pid})" in output) == (
        0,
        True,
    )
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    process.stdout.close()
    wait_for(lambda: not processes_of(project / worktree.TREE), 20)
    assert (project / worktree.TREE).exists()

    (project / "data/wait").unlink()
    code, output = run(project, *OPTIONS)
    assert code == 0, output
    assert "a run before did not finish; where it starts from is on branch" in output
    assert "Running stage 'model'" in output
    assert [version for version, _ in versions(project)] == [1, 2]
    assert json.loads(tags_of(project, "2")["params"])["warm_start"]["path"].startswith("state/bundles/")
    assert state_of(project) == before
    nothing_is_left(project)

    (project / "data/mode").write_text("refused")
    code, output = run(project, *OPTIONS)
    assert code == EXIT_REFUSED, output
    assert versions(project)[-1] == (3, "")
    nothing_is_left(project)


def test_a_failure_says_why_and_leaves_nothing(project):
    before = state_of(project)
    code, output = run(project, "--set", "teacher.epoch=3")
    assert code == EXIT_BAD_INPUT
    assert "error: unknown key 'teacher.epoch'" in output
    code, output = run(project, "--data", "../elsewhere")
    assert code == EXIT_BAD_INPUT
    assert "error: data is ../elsewhere: relative, and outside" in output
    assert state_of(project) == before
    nothing_is_left(project)


def test_the_projects_own_graph_in_a_worktree_and_then_nothing_to_do(tmp_path):
    project = tmp_path.resolve() / "project"
    make_project(project, ("src", "flows", "infra", "dvc.yaml"))
    leave_to_people(
        project,
        "params.yaml",
        "src/unigrec/pipeline/stages.py",
        "src/unigrec/data/sources/folder.py",
        "flows/retrain.py",
    )
    before, main = state_of(project), git(project, "rev-parse", "main").strip()
    code, output = run(project, *OPTIONS)
    assert code == 0, output
    branch = check_first(project, main)
    check_nothing_to_do(project, branch)
    assert state_of(project) == before
    nothing_is_left(project)
