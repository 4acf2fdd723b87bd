"""The scheduled run for real: the project's own code and graph on a small shop's data, in a repository people work in."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import shop
import yaml
from test_retrain import processes_of, versions, wait_for
from test_worktree import branches, commit, git, state_of
from tiny_training import tiny_values

from flows import worktree
from unigrec import artifacts as a
from unigrec.config import RegisterParams
from unigrec.tracking import mlflow_client

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ANY_MODEL = {
    **dict.fromkeys(("min_recall_at_10", "min_ndcg_at_10", "min_codebook_utilisation"), 0.0),
    **dict.fromkeys(("min_margin_over_popularity", "min_margin_over_cooccurrence"), -1.0),
    **dict.fromkeys(("max_drop_below_teacher", "max_collision_rate"), 1.0),
}
CHANGES = {
    "snapshot": {"start": "champion"},
    "ingest": {"source": "folder", "path": "data/current"},
    "embed": {"dimensions": 8},
    "evaluate": {"bootstrap_resamples": 100},
    "gate": ANY_MODEL,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A clone with a first delivery, and with work of people that is not committed and would break every stage."""
    folder = tmp_path_factory.mktemp("scheduled") / "project"
    for name in ("src", "flows", "infra/profiles", ".dvc/config", ".dvc/.gitignore", ".gitignore", "dvc.yaml"):
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(source, target, ignore=ignored) if source.is_dir() else shutil.copy(source, target)
    (folder / "params.yaml").write_text(yaml.safe_dump(tiny_values(CHANGES)))
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    commit(folder)
    (folder / "data/incoming").mkdir(parents=True)
    shop.write(folder / "data/incoming")
    git(folder, "switch", "--quiet", "--create", "people")
    for name in ("src/unigrec/stages.py", "src/unigrec/data/sources.py", "flows/retrain.py", "params.yaml"):
        with (folder / name).open("a") as file:
            file.write("\nraise SystemExit('half a thought')\n")
    git(folder, "add", "params.yaml")
    return folder.resolve()


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
    """One interaction more of every user."""
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


def test_a_run_beside_people_then_nothing_to_do_then_one_that_is_killed(project):
    before, main = state_of(project), git(project, "rev-parse", "main").strip()
    code, output = run(project, "--set", "teacher.epochs=3")
    assert code == 0, output
    assert state_of(project) == before
    nothing_is_left(project)

    assert versions(project) == [(1, "challenger champion")]
    [branch] = branches(project)
    lock = git(project, "show", f"{branch}:dvc.lock")
    tags, snapshot = tags_of(project, "1"), (project / a.CURRENT).resolve().name
    assert git(project, "rev-parse", f"{branch}^").strip() == tags["git_commit"] == main
    assert tags["dvc_lock"] == hashlib.sha256(lock.encode()).hexdigest()
    assert tags["snapshot"] == snapshot
    assert json.loads(tags["params"]) == yaml.safe_load(git(project, "show", f"{branch}:params.yaml"))
    assert json.loads(tags["params"])["teacher"]["epochs"] == 3
    assert set(yaml.safe_load(lock)["stages"]) == set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    assert {f"snapshot: {snapshot}", f"dvc.lock: {tags['dvc_lock']}"} <= set(
        git(project, "log", "-1", "--format=%B", branch).splitlines()
    )
    assert list((project / "mlruns").rglob("bundle/*/manifest.json")) or list(
        (project / "mlruns").rglob("manifest.json")
    )

    code, output = run(project, "--set", "teacher.epochs=3")
    assert code == 0, output
    assert "nothing to train: no stage had anything to do" in output
    assert "Running stage" not in output
    assert (versions(project), branches(project)) == ([(1, "challenger champion")], [branch])

    deliver(project, 0)
    process = start(project, "--set", "teacher.epochs=3")
    assert process.stdout is not None
    for line in process.stdout:
        if "Running stage 'joint'" in line:
            break
    assert "at work already" in run(project)[1]
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    process.stdout.close()
    wait_for(lambda: not processes_of(project / worktree.TREE), 20)
    assert (project / worktree.TREE).exists()

    time.sleep(1)  # the commits' clock counts seconds
    code, output = run(project, "--set", "teacher.epochs=3")
    assert code == 0, output
    assert "Running stage 'teacher'" not in output  # from DVC's cache
    assert "Running stage 'joint'" in output
    assert [version for version, _ in versions(project)] == [1, 2]
    assert json.loads(tags_of(project, "2")["params"])["start"]["path"].startswith("state/bundles/")
    assert state_of(project) == before
    nothing_is_left(project)


def test_a_failure_says_why_and_leaves_nothing(project):
    before = state_of(project)
    code, output = run(project, "--set", "teacher.epoch=3")
    assert code == 2
    assert "error: unknown key 'teacher.epoch'" in output
    code, output = run(project, "--data", "../elsewhere")
    assert code == 2
    assert "error: data is ../elsewhere: relative, and outside" in output
    assert state_of(project) == before
    nothing_is_left(project)
