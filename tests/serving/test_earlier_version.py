"""A version that commit a1817b7 registered: every command on models works with it, and its stored code never runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from support.project import PARAMS_FILE
from support.tiny_model import make_bundle, write_data
from unigrec.base import paths
from unigrec.base.errors import UnigrecError
from unigrec.cli import app
from unigrec.config.read import load_params
from unigrec.config.schema import RegisterParams
from unigrec.core.decisions.comparison import CHALLENGER, CHAMPION
from unigrec.promotion import judge
from unigrec.registry import versions as registry
from unigrec.registry.tracking import mlflow_client
from unigrec.registry.versions import load_bundle, register, version_of
from unigrec.serving.bundle import Bundle
from unigrec.serving.manifest import open_bundle

KEPT = Path(__file__).with_name("version_of_a1817b7")


@pytest.fixture
def params(tmp_path, monkeypatch, empty_store) -> RegisterParams:
    """A project whose store holds the kept version as challenger, in the layout of that commit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path)
    # The whole path: MLflow keeps a connection per address, and another test's store may have had the relative one.
    text = PARAMS_FILE.read_text(encoding="utf-8").replace("sqlite:///mlflow.db", f"sqlite:///{tmp_path}/mlflow.db")
    Path("params.yaml").write_text(text, encoding="utf-8")
    params = load_params(Path("params.yaml")).register_
    model = shutil.copytree(KEPT / "model", tmp_path / "model")
    code = (model / "pyfunc_model.py.txt").rename(model / "pyfunc_model.py")
    code.write_text(f"{code.read_text()}\nPath({str(mark(tmp_path))!r}).touch()\n")
    name, tags = params.model_name, json.loads((KEPT / "tags.json").read_text())
    with mlflow_client(params) as client:
        experiment = client.create_experiment(params.experiment)
        run = client.create_run(experiment).info.run_id
        logged = client.create_logged_model(experiment, "model", run).model_id
        client.log_model_artifacts(logged, str(model))
        client.finalize_logged_model(logged, "READY")
        client.create_registered_model(name)
        client.create_model_version(name, f"models:/{logged}", run, tags=tags, model_id=logged)
        client.set_registered_model_alias(name, CHALLENGER, "1")
    return params


def mark(folder: Path) -> Path:
    """What the stored code would write."""
    return folder / "stored code was run"


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "120"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def champion(params: RegisterParams) -> str | None:
    with mlflow_client(params) as client:
        found = version_of(client, params.model_name, CHAMPION)
    return found and str(found.version)


def test_the_kept_version_is_what_that_commit_made():
    (folder,) = (KEPT / "model/artifacts").iterdir()
    manifest = open_bundle(folder)
    assert manifest["git_commit"].startswith("a1817b7")
    assert manifest["id"] == folder.name == json.loads((KEPT / "tags.json").read_text())["bundle_id"]
    assert "from unigrec.bundle import Bundle" in (KEPT / "model/pyfunc_model.py.txt").read_text()
    assert "code: null" in (KEPT / "model/MLmodel").read_text()


@pytest.mark.slow
def test_every_command_works_with_a_version_of_that_layout(params, tmp_path, monkeypatch):
    # No process per request; tests/flows/test_promote.py has real ones.
    monkeypatch.setattr(judge, "probe", lambda *_, limit: [1.0])
    write_data(data_seed=0)  # the kept model finds each user's test item
    assert "PASSED" in invoke("gate", "--challenger", "challenger", "--champion", "none")
    assert "version 1 is champion" in invoke("promote")

    (kept,) = (KEPT / "model/artifacts").iterdir()
    expected = Bundle.load(kept).recommend([["P3", "gone"]], k=3)[0]
    answer = json.loads(invoke("recommend", "--history", "P3,gone", "-k", "3", "--json"))
    assert [item["item_id"] for item in answer["items"]] == [item.item_id for item in expected.items]
    assert answer["unknown"] == 1
    named = invoke("recommend", "--history", "P3,gone", "-k", "3", "--json", "--rank-by", "generative")
    assert json.loads(named) == answer
    with pytest.raises(UnigrecError, match="this bundle, of an earlier version, ranks by generative only"):
        invoke("recommend", "--history", "P3", "--rank-by", "fused")

    # The newer version is loaded back in tests/serving/test_standalone.py.
    monkeypatch.setattr(registry, "_check_loads", lambda *_: None)
    assert register(make_bundle(seed=1, data_seed=1), params).version == "2"
    assert "version 2 is champion" in invoke("promote")  # judged next to the kept one
    assert "version 1 is champion again" in invoke("rollback", "--why", "a test")
    assert champion(params) == "1"

    invoke("warm-start", "--from", "champion")
    start = load_params(Path("params.yaml")).warm_start.path
    assert start == str(paths.BUNDLES / kept.name)
    assert open_bundle(Path(start))["id"] == load_bundle(params, "1").id == kept.name
    assert not mark(tmp_path).exists()
