"""Runs the steps of promote.yml in order, in a fresh clone, with an MLflow server with passwords and a DVC remote."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from flows.services import services

from support.flow_project import EVERY_STAGE
from support.project import PARAMS_FILE, ROOT
from support.tiny_model import USERS, bundle_in
from unigrec.config.read import load_params
from unigrec.registry.tracking import PASSWORD_VARIABLE, URI_VARIABLE, USER_VARIABLE, mlflow_client

WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/promote.yml").read_text(encoding="utf-8"))
USER, PASSWORD = "joe", "pl4nted-secret-one"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MAKE_MODEL = """
import sys
sys.path.insert(0, {tests!r})
from support.tiny_model import write_artifacts
write_artifacts(0, True, None, 0)
"""
GH = """#!/bin/sh
echo "$@" > "$COMMENTED"
for last; do :; done
cat "$last" >> "$COMMENTED"
"""


class Step(NamedTuple):
    name: str
    status: int
    output: str


@pytest.fixture(scope="module")
def values(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Values for the expressions of the workflow."""
    pytest.importorskip("flask_wtf", reason="MLflow's authentication needs Flask-WTF: make install")
    with services(tmp_path_factory.mktemp("services"), USER, PASSWORD) as running:
        yield {
            "vars.AWS_ENDPOINT_URL": "",
            "vars.DVC_REMOTE": str(tmp_path_factory.mktemp("remote")),
            "vars.MLFLOW_TRACKING_URI": running.mlflow,
            "vars.CHAMPION": "none",
            "secrets.AWS_ACCESS_KEY_ID": "",
            "secrets.AWS_SECRET_ACCESS_KEY": "",
            "secrets.MLFLOW_TRACKING_USERNAME": USER,
            "secrets.MLFLOW_TRACKING_PASSWORD": PASSWORD,
            "github.token": "t0ken",
            "github.repository": "shop/unigrec",
            "github.event.pull_request.number": "7",
        }


@pytest.fixture(scope="module")
def proposed(tmp_path_factory, values) -> Path:
    """A repository whose last commit is a trained model, with its data pushed to the remote."""
    folder = tmp_path_factory.mktemp("project")
    params = re.sub(r"^(ingest:\n(?:  .*\n)*?  path: )\S+", r"\1data/current", PARAMS_FILE.read_text(), flags=re.M)
    (folder / "params.yaml").write_text(params)
    (folder / "data").mkdir()
    (folder / "data/current").write_text("a delivery")  # neither git nor the remote holds the source of the data
    (folder / "infra").mkdir()
    shutil.copy(ROOT / "infra/up_to_date.py", folder / "infra")
    (folder / "make_model.py").write_text(MAKE_MODEL.format(tests=str(ROOT / "tests")))
    outs = [*(f"artifacts/{name}" for name in EVERY_STAGE), "artifacts/validated.json"]
    stage = {
        "cmd": "python make_model.py",
        "deps": ["make_model.py", "${ingest.path}"],
        "params": ["seed"],
        "outs": outs,
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"model": stage}}))
    (folder / ".gitignore").write_text("/artifacts/\n/data/\n/state/\n/build/\n")
    for command in (
        "git init --quiet",
        "dvc init --quiet",
        "dvc repro --quiet",
        f"dvc remote add --local --default store {values['vars.DVC_REMOTE']}",
        "dvc push --quiet",
        "git add --all",
        "git -c user.name=joe -c user.email=joe@host commit --quiet --message proposed",
    ):
        subprocess.run(command.split(), cwd=folder, env=environment(), check=True)
    return folder


def environment(**more: str) -> dict[str, str]:
    """The environment of the tests with the programs of this Python first, as after the step `Install`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PREFECT_", "AWS_"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**kept, "PATH": path, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", **more}


def clone(proposed: Path, folder: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", str(proposed), str(folder / "clone")], check=True)
    return folder / "clone"


def settled(text: str, values: dict[str, str]) -> str:
    """Replace the expressions in a text of the workflow. Raises KeyError for an unknown expression."""

    def value(match: re.Match[str]) -> str:
        name, _, default = match[1].partition(" || ")
        return values[name] or default.strip("'")

    return re.sub(r"\$\{\{ (.+?) \}\}", value, text)


def run_job(name: str, folder: Path, values: dict[str, str]) -> list[Step]:
    """Run the steps that are commands as the runner does. After a failure, run only the steps that allow it."""
    programs = folder.parent / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "gh").write_text(GH)
    (programs / "gh").chmod(0o755)
    shared = environment(COMMENTED=str(folder.parent / "commented"), CI="true")
    shared["PATH"] = f"{programs}:{shared['PATH']}"
    shared |= {key: settled(text, values) for key, text in WORKFLOW["env"].items() if settled(text, values)}
    done: list[Step] = []
    for step in WORKFLOW["jobs"][name]["steps"]:
        failed = any(before.status for before in done)
        if "run" not in step or step["name"] == "Install" or not _wanted(step.get("if", ""), failed, folder):
            continue
        variables = {key: settled(text, values) for key, text in step.get("env", {}).items()}
        process = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=folder,
            env=shared | {key: text for key, text in variables.items() if text},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        done.append(Step(step["name"], process.returncode, process.stdout))
    return done


def _wanted(condition: str, failed: bool, folder: Path) -> bool:
    """Evaluate the only kind of step condition in the workflow: run even after a failure, if a file exists."""
    if not condition:
        return not failed
    needed = re.fullmatch(r"\$\{\{ !cancelled\(\) && hashFiles\('([^']+)'\) != '' \}\}", condition)
    assert needed, condition
    return (folder / needed[1]).is_file()


def retrain_by_night(folder: Path, values: dict[str, str], other: Path) -> None:
    """Register the proposed model as version 1, and another one, which becomes the challenger, as version 2."""
    server = {URI_VARIABLE: values["vars.MLFLOW_TRACKING_URI"], USER_VARIABLE: USER, PASSWORD_VARIABLE: PASSWORD}
    for bundle in ([], ["--bundle", str(bundle_in(other, seed=1))]):
        subprocess.run(["unigrec", "register", *bundle], cwd=folder, env=environment(**server), check=True)


def failures(steps: list[Step]) -> list[Step]:
    return [step for step in steps if step.status]


def aliases(folder: Path, values: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv(URI_VARIABLE, values["vars.MLFLOW_TRACKING_URI"])
    monkeypatch.setenv(USER_VARIABLE, USER)
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    params = load_params(folder / "params.yaml").register_
    with mlflow_client(params) as client:
        found = client.search_registered_models(f"name = '{params.model_name}'")
        return {name: str(version) for name, version in found[0].aliases.items()} if found else {}


def test_both_jobs_begin_with_the_environment_of_the_lock_file():
    for job in WORKFLOW["jobs"].values():
        install = next(step for step in job["steps"] if step.get("name") == "Install")
        assert install["run"].startswith("make install\n")


def test_a_proposed_model_is_gated_and_shown_then_registered_and_promoted(proposed, values, tmp_path, monkeypatch):
    folder = clone(proposed, tmp_path)
    gated = run_job("gate", folder, values)
    assert failures(gated) == []
    assert [step.name for step in gated] == ["Pull data", "Pipeline is up to date", "Gate", "Comment"]
    comment = (tmp_path / "commented").read_text()
    assert comment.startswith("pr comment 7 --edit-last --create-if-none --body-file build/gate/comparison.md\n")
    assert comment.count("|") > 10  # a table
    assert aliases(folder, values, monkeypatch) == {}  # a pull request changes nothing

    retrain_by_night(folder, values, tmp_path)
    merged = tmp_path / "merged"
    merged.mkdir()
    promoted = run_job("promote", clone(proposed, merged), values)
    assert failures(promoted) == []
    assert promoted[-1].name == "Register and promote"
    assert aliases(folder, values, monkeypatch) == {"challenger": "2", "champion": "1"}  # not what nobody merged
    assert not any(PASSWORD in step.output for step in gated + promoted)

    # A model that became champion before its pull request was merged, as by a nightly run, may be merged.
    against = values | {"vars.CHAMPION": ""}
    assert failures(run_job("gate", folder, against)) == []

    # No better than the same model in another bundle, it is refused. The table is shown nevertheless.
    equal = bundle_in(tmp_path, ranks=[3] * USERS)
    again = run_job("gate", folder, values | {"vars.CHAMPION": str(equal)})
    assert [(step.name, step.status) for step in again][-2:] == [("Gate", 1), ("Comment", 0)]


def test_a_pipeline_that_is_not_up_to_date_goes_no_further(proposed, values, tmp_path):
    folder = clone(proposed, tmp_path)
    params = folder / "params.yaml"
    params.write_text(re.sub(r"^seed: .*", "seed: 1", params.read_text(), flags=re.M))
    steps = run_job("gate", folder, values)
    assert [(step.name, step.status) for step in steps] == [("Pull data", 0), ("Pipeline is up to date", 1)]
    assert "seed" in steps[-1].output
    assert not (tmp_path / "commented").exists()


def test_data_that_nobody_pushed_is_an_error_at_once(proposed, values, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    steps = run_job("gate", clone(proposed, tmp_path), values | {"vars.DVC_REMOTE": str(empty)})
    assert [step.name for step in steps] == ["Pull data"]
    assert steps[0].status != 0
