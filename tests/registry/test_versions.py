"""Registration and promotion against a real MLflow store (SQLite), and one that is not there."""

from __future__ import annotations

import gc
import shutil
import time

import pytest

from support.promotions import says
from support.tiny_model import make_bundle, tiny_rows
from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.config.schema import RegisterParams
from unigrec.promotion.champion import promote
from unigrec.registry import versions as registry
from unigrec.registry.tracking import mlflow_client
from unigrec.registry.versions import load_bundle, locate, register, version_of
from unigrec.serving.manifest import open_bundle
from unigrec.serving.probe import ProbeError

BROKEN_MODEL = """
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Broken(PythonModel):
    def load_context(self, context):
        raise RuntimeError("cannot load")

    def predict(self, context, model_input: list[str], params=None):
        return model_input


set_model(Broken())
"""


def aliases(params: RegisterParams) -> dict[str, str]:
    with mlflow_client(params) as client:
        return {name: str(version) for name, version in client.get_registered_model("tiny").aliases.items()}


def test_a_passed_bundle_becomes_a_challenger_that_recommends(params):
    folder = make_bundle()
    done = register(folder, params)
    assert done == ("tiny", "1", True, True, None)
    assert aliases(params) == {"challenger": "1"}
    assert load_bundle(params, "challenger").id == load_bundle(params, "1").id == load_bundle(params, str(folder)).id
    assert files.read_json(paths.REFERENCE) == {"origin": "folder: shop", **tiny_rows()}


def test_the_same_bundle_is_registered_once(params, unchecked):
    folder = make_bundle()
    first, second = register(folder, params), register(folder, params)
    assert (first.version, first.created, second.version, second.created) == ("1", True, "1", False)
    with mlflow_client(params) as client:
        assert len(client.search_model_versions("name = 'tiny'")) == 1
        assert len(client.search_runs([client.get_experiment_by_name("tests").experiment_id])) == 1


def test_a_refused_bundle_is_a_version_without_alias_and_cannot_be_promoted(params, unchecked):
    done = register(make_bundle(passed=False), params)
    assert (done.created, done.passed) == (True, False)
    assert aliases(params) == {}
    with pytest.raises(UnigrecError, match="no challenger"):
        promote(params, says("promote"))
    with pytest.raises(UnigrecError, match="its gates refused it"):
        promote(params, says("promote"), "1")


def test_a_version_that_does_not_load_gets_no_alias(params, tmp_path, monkeypatch):
    broken = tmp_path / "broken_model.py"
    broken.write_text(BROKEN_MODEL)
    folder = make_bundle()
    with monkeypatch.context() as patch:
        patch.setattr(registry, "MODEL_CODE", broken)
        with pytest.raises(UnigrecError, match="does not load"):
            register(folder, params)
    assert aliases(params) == {}
    assert not paths.REFERENCE.exists()

    def still_broken(*_: object, **__: object) -> None:
        raise ProbeError("it does not load")

    monkeypatch.setattr(registry, "ask_stored", still_broken)
    with pytest.raises(UnigrecError, match="was registered, but it does not load"):  # it is asked again
        register(folder, params)
    assert aliases(params) == {}


def test_a_registration_that_died_halfway_is_finished(params, monkeypatch, unchecked):
    folder = make_bundle()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, "_check_loads", die)
        with pytest.raises(KeyboardInterrupt):
            register(folder, params)
    assert aliases(params) == {}
    assert register(folder, params).version == "1"
    assert aliases(params) == {"challenger": "1"}


def test_a_challenger_is_promoted_and_a_second_registration_tells_the_verdict(params, unchecked):
    register(make_bundle(), params)
    done = promote(params, says("promote"))
    assert (done.version, done.champion, done.moved) == ("1", "1", True)
    assert aliases(params) == {"challenger": "1", "champion": "1"}
    assert register(make_bundle(), params).verdict == done.reason


def test_a_bundle_is_located_without_loading_it(params, tmp_path, unchecked):
    folder = make_bundle()
    register(folder, params)
    for model, name in (("challenger", "version 1"), ("1", "version 1"), (str(folder), str(folder))):
        scratch = tmp_path / f"scratch-{model[-1]}"
        scratch.mkdir()
        found = locate(params, model, scratch)
        assert (found.name, open_bundle(found.folder)["id"]) == (name, folder.name)


def test_a_project_that_was_moved_has_its_models_and_says_what_registering_needs(params, tmp_path, unchecked):
    """MLflow stores absolute paths."""
    folder = make_bundle()
    register(folder, params)
    (tmp_path / "mlruns").rename(tmp_path / "elsewhere")
    assert load_bundle(params, "challenger").id == folder.name
    with pytest.raises(UnigrecError, match=f"keeps its files in {tmp_path}/mlruns.*unigrec configure --set"):
        register(make_bundle(seed=1), params)
    assert not (tmp_path / "mlruns").exists()
    assert register(make_bundle(seed=1), params.model_copy(update={"experiment": "another"})).version == "2"
    shutil.rmtree(folder)
    with pytest.raises(UnigrecError, match=r"version 1: its files are gone.*move it back"):
        load_bundle(params, "1")


def test_a_copied_project_says_what_registering_needs_and_leaves_the_first_as_it_is(
    params, tmp_path, monkeypatch, unchecked
):
    register(make_bundle(), params)
    copy = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-copy"))
    (copy / "mlflow.db").rename(copy / "copy.db")  # a name of its own, since MLflow keeps a connection per address
    monkeypatch.chdir(copy)
    before = set(tmp_path.rglob("*"))
    copied = params.model_copy(update={"tracking_uri": "sqlite:///copy.db"})
    with pytest.raises(UnigrecError, match=f"keeps its files in {tmp_path}/mlruns.*copied.*unigrec configure --set"):
        register(make_bundle(seed=1), copied)
    assert register(make_bundle(seed=1), copied.model_copy(update={"experiment": "another"})).version == "2"
    assert set(tmp_path.rglob("*")) == before


def test_what_was_fetched_of_a_version_is_kept_as_long_as_its_bundle(params, unchecked):
    register(make_bundle(), params)
    bundle = load_bundle(params, "1")
    folder = bundle.folder
    assert open_bundle(folder)["id"] == bundle.id
    del bundle
    gc.collect()
    assert not folder.exists()


@pytest.mark.parametrize("model", ["champion", "7"])
def test_asking_for_a_model_that_is_not_there_says_what_to_do(params, model):
    with pytest.raises(UnigrecError, match=f"no version or alias '{model}'.*make run"):
        load_bundle(params, model)
    with mlflow_client(params) as client:
        assert version_of(client, "tiny", "champion") is None


def test_a_dead_address_fails_soon_and_the_kept_bundle_registers_later(params, monkeypatch, unchecked):
    folder = make_bundle()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(UnigrecError, match=r"127.0.0.1:9 does not answer.*unigrec register --bundle") as caught:
        register(folder, params)
    assert time.monotonic() - began < 30
    assert str(folder) in str(caught.value)
    assert not paths.REFERENCE.exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert register(folder, params).created


def test_a_damaged_bundle_is_not_registered(params):
    folder = make_bundle()
    (folder / "params.yaml").write_text("changed")
    with pytest.raises(UnigrecError, match=r"params.yaml: changed since"):
        register(folder, params)
