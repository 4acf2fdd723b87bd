"""Registration and promotion against a real MLflow store (SQLite), and one that is not there."""

from __future__ import annotations

import gc
import shutil
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from support.promotions import says
from support.tiny_model import make_bundle, tiny_rows
from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.config.schema import RegisterParams
from unigrec.promotion.champion import promote, rollback
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("place", "name"),
    [(registry, "_check_loads"), (MlflowClient, "set_registered_model_alias"), (registry.files, "write_json")],
)
def test_a_registration_that_died_halfway_is_finished(params, monkeypatch, unchecked, place, name):
    folder = make_bundle()

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, name, die)
        with pytest.raises(KeyboardInterrupt):
            register(folder, params)
    assert not paths.REFERENCE.exists()
    assert register(folder, params).version == "1"
    assert aliases(params) == {"challenger": "1"}
    assert paths.REFERENCE.is_file()


def register_but_die_at_the_last_step(folder: Path, params: RegisterParams, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_model_version_tag", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            register(folder, params)


def test_a_registration_that_is_finished_after_the_next_one_leaves_the_challenger(params, monkeypatch, unchecked):
    first = make_bundle()
    register_but_die_at_the_last_step(first, params, monkeypatch)
    register(make_bundle(seed=1), params)
    assert register(first, params).version == "1"
    assert aliases(params) == {"challenger": "2"}


def test_reference_sizes_of_a_newer_run_stay_though_its_gates_refused_it(params, monkeypatch, unchecked):
    first = make_bundle()
    register_but_die_at_the_last_step(first, params, monkeypatch)
    register(make_bundle(seed=1, passed=False), params)
    files.write_json(paths.REFERENCE, {"of": "the newer run"})
    register(first, params)
    assert files.read_json(paths.REFERENCE) == {"of": "the newer run"}
    assert aliases(params) == {"challenger": "1"}


def test_a_registration_that_is_finished_after_a_rollback_tells_the_verdict(params, monkeypatch, unchecked):
    register(make_bundle(), params)
    promote(params, says("promote"))
    second = make_bundle(seed=1)
    register_but_die_at_the_last_step(second, params, monkeypatch)
    promote(params, says("promote"))
    rollback(params, None, "sales fell")
    assert "sales fell" in str(register(second, params).verdict)


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_store_whose_files_are_gone_has_its_models_and_says_what_registering_needs(params, tmp_path, unchecked):
    """MLflow stores absolute paths."""
    folder = make_bundle()
    register(folder, params)
    (tmp_path / "mlruns").rename(tmp_path / "elsewhere")
    assert load_bundle(params, "challenger").id == folder.name
    with pytest.raises(UnigrecError, match=f"keeps its files in {tmp_path}/mlruns.*gone.*unigrec configure --set"):
        register(make_bundle(seed=1), params)
    assert not (tmp_path / "mlruns").exists()
    assert register(make_bundle(seed=1), params.model_copy(update={"experiment": "another"})).version == "2"
    shutil.rmtree(folder)
    with pytest.raises(UnigrecError, match=r"version 1: its files are gone.*move it back"):
        load_bundle(params, "1")


@pytest.fixture
def own_store(params, tmp_path) -> RegisterParams:
    """The store as the committed params name it; MLflow keeps a connection per address, so each test has its own."""
    name = f"{tmp_path.name}.db"
    (tmp_path / "mlflow.db").rename(tmp_path / name)
    return params.model_copy(update={"tracking_uri": f"sqlite:///{name}"})


def at(folder: Path, store: RegisterParams, monkeypatch) -> RegisterParams:
    """The params in a folder to which the project went, with a new name of the store (see `own_store`)."""
    old, new = (
        Path(uri.removeprefix("sqlite:///")) for uri in (store.tracking_uri, f"sqlite:///{folder.name}-there.db")
    )
    (folder / old).rename(folder / new)
    monkeypatch.chdir(folder)
    return store.model_copy(update={"tracking_uri": f"sqlite:///{new}"})


def files_of(params: RegisterParams, version: str) -> list[str]:
    """Where MLflow has the run's and the model's files."""
    with mlflow_client(params) as client:
        found = client.get_model_version("tiny", version)
        run = client.get_run(found.run_id)
        assert client.list_artifacts(run.info.run_id, "report")
        experiment = client.get_experiment(run.info.experiment_id)
        model = client.get_logged_model(found.source.rsplit("/")[-1])
    return [experiment.artifact_location, run.info.artifact_uri, model.artifact_location]


@pytest.mark.slow
@pytest.mark.parametrize("goes", ["moved", "copied"])
def test_a_project_that_went_to_another_folder_works_there_and_leaves_the_first_as_it_is(
    own_store, tmp_path, monkeypatch, unchecked, goes
):
    first = make_bundle()
    register(first, own_store)
    there = tmp_path.with_name(f"{tmp_path.name}-there")
    if goes == "moved":
        monkeypatch.chdir("/")
        tmp_path.rename(there)
    else:
        shutil.copytree(tmp_path, there)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    params = at(there, own_store, monkeypatch)
    shutil.rmtree(paths.BUNDLES)  # so that only the store has the files
    assert load_bundle(params, "challenger").id == first.name
    assert register(make_bundle(seed=1), params).version == "2"
    for version in ("1", "2"):
        assert all(Path(place).is_relative_to(there) for place in files_of(params, version))
    if goes == "copied":
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.slow
def test_a_copy_without_the_files_reads_those_of_the_first_project_and_writes_its_own(
    own_store, tmp_path, monkeypatch, unchecked
):
    first = make_bundle()
    register(first, own_store)
    store = own_store.tracking_uri.removeprefix("sqlite:///")
    there = tmp_path.with_name(f"{tmp_path.name}-there")
    there.mkdir()
    shutil.copy(tmp_path / store, there)
    before = set(tmp_path.rglob("*"))
    old, new = store, f"{there.name}.db"
    (there / old).rename(there / new)
    (tmp_path / new).symlink_to(tmp_path / old)  # in one process, the stores need different names
    monkeypatch.chdir(there)
    params = own_store.model_copy(update={"tracking_uri": f"sqlite:///{new}"})
    assert load_bundle(params, "1").id == first.name
    assert register(make_bundle(seed=1), params).version == "2"
    assert all(Path(place).is_relative_to(there) for place in files_of(params, "2"))
    assert set(tmp_path.rglob("*")) == before | {tmp_path / new}


def test_a_place_for_artifacts_that_somebody_chose_stays(own_store, tmp_path, unchecked):
    chosen = tmp_path.with_name(f"{tmp_path.name}-shared") / "mlruns/1"
    with mlflow_client(own_store) as client:
        client.create_experiment("tests", artifact_location=str(chosen))
    register(make_bundle(), own_store)
    assert all(Path(place).is_relative_to(chosen) for place in files_of(own_store, "1"))


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
