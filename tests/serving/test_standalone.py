"""A registered model answers where nothing of this project is installed, and none of its code runs in our processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.tiny_model import bundle_in
from unigrec.base.errors import UnigrecError
from unigrec.config.schema import RegisterParams
from unigrec.registry import model_package, versions
from unigrec.registry.tracking import mlflow_client
from unigrec.registry.versions import load_bundle, register
from unigrec.serving.bundle import Bundle

SCRIPT = Path(__file__).with_name("answer_requests.py")
HISTORY = ["P3", "P10", "a,b"]
REQUESTS = {
    "defaults": ([HISTORY, ["gone", "P4"], []], {}),
    "k": ([HISTORY], {"k": 2}),
    "allow": ([HISTORY, ["gone"]], {"k": 3, "allow": ["P10", "P11", "квас", "gone"]}),
    "deny": ([HISTORY, ["gone"]], {"k": 3, "deny": ["P8", "P11", "gone"]}),
    "exclude_history": ([HISTORY], {"k": 12, "exclude_history": True}),
    "ranked by the dense part": ([HISTORY, ["gone"]], {"k": 12, "rank_by": "dense"}),
    "ranked by all parts": ([HISTORY, ["P4"]], {"k": 12, "rank_by": "fused"}),
    "ranked as validation chose": ([HISTORY], {"k": 12, "rank_by": ""}),
    "all": ([HISTORY], {"k": 2, "allow": ["P3", "P8", "P9", "P7"], "deny": ["P9"], "exclude_history": True}),
}


class Registered:
    """A store with one version, whose model folder is also copied to a place of its own."""

    def __init__(self, folder: Path):
        self.bundle_folder = bundle_in(folder)
        self.params = RegisterParams(tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment="e", model_name="m")
        register(self.bundle_folder, self.params)
        with mlflow_client(self.params) as client:
            stored = client.get_logged_model(client.get_model_version("m", "1").source.removeprefix("models:/"))
        self.stored = Path(stored.artifact_location)
        self.model = shutil.copytree(self.stored, folder / "elsewhere" / "model")


@pytest.fixture(scope="module")
def registered(tmp_path_factory, empty_store) -> Iterator[Registered]:
    folder = tmp_path_factory.mktemp("registered")
    shutil.copy(empty_store, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        # It is loaded below, in processes that tell more than whether it loads.
        patch.setattr(versions, "_check_loads", lambda *_: None)
        yield Registered(folder)


def body(histories: list[Any], params: dict[str, Any]) -> dict[str, Any]:
    return {"dataframe_split": {"columns": ["history"], "data": [[history] for history in histories]}, "params": params}


def answers(python: str, model: Path, folder: Path, bodies: list[dict[str, Any]], **environment: str) -> list[Any]:
    """Statuses and answers of the model, on its own code, in a process that starts in `folder`."""
    done = subprocess.run(
        [python, "-P", str(SCRIPT), str(model)],
        input=json.dumps(bodies),
        capture_output=True,
        text=True,
        timeout=240,
        cwd=folder,
        env={"PATH": os.defpath, "HOME": str(folder), "OMP_NUM_THREADS": "1"} | environment,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert Path(said["code"]).is_relative_to(model)
    return said["answers"]


def assert_equal_to_the_bundles(given: list[Any], folder: Path) -> None:
    """The answers to REQUESTS are those of the bundle in this process."""
    bundle = Bundle.load(folder)
    for (name, (histories, params)), (status, rows) in zip(REQUESTS.items(), given, strict=True):
        assert status == 200, (name, rows)
        known = params | {"rank_by": params.get("rank_by") or None}
        for row, expected in zip(rows, bundle.recommend(histories, **known), strict=True):
            assert row["item_ids"] == [item.item_id for item in expected.items], name
            assert row["titles"] == [item.title for item in expected.items], name
            assert row["scores"] == pytest.approx([item.score for item in expected.items], abs=1e-5), name
            assert (row["unknown"], row["by_popularity"]) == (expected.unknown, expected.by_popularity), name


@pytest.mark.slow
def test_it_answers_on_its_own_code_where_this_package_has_moved(registered, tmp_path):
    """A package of the same name, with no module in it, is on the path of the process that loads the model."""
    (tmp_path / "unigrec").mkdir()
    (tmp_path / "unigrec/__init__.py").touch()
    odd = {
        "a null in a history": body([["P10", "P11", None]], {"k": 2}),
        "no history": body([None], {"k": 1}),
        "whole numbers": body([[10, 23]], {"k": 1}),
        "a fraction": body([[1.5]], {"k": 1}),
        "a list in a list": body([[["P10"]]], {"k": 1}),
        "a text as history": body(["P10"], {"k": 1}),
        "too many": body([HISTORY], {"k": 99}),
        "too few": body([HISTORY], {"k": 0}),
        "nothing allowed": body([HISTORY], {"allow": ["gone"]}),
        "a text as list": body([HISTORY], {"deny": "P3"}),
        "an unknown way to rank": body([HISTORY], {"rank_by": "best"}),
        "a number as a way to rank": body([HISTORY], {"rank_by": 3}),
    }
    bodies = [*(body(*request) for request in REQUESTS.values()), *odd.values()]
    given = answers(sys.executable, registered.model, tmp_path, bodies, PYTHONPATH=str(tmp_path))
    assert_equal_to_the_bundles(given[: len(REQUESTS)], registered.bundle_folder)
    found = dict(zip(odd, given[len(REQUESTS) :], strict=True))

    bundle = Bundle.load(registered.bundle_folder)
    (known,) = bundle.recommend([["P10", "P11"]], k=2)
    status, (row,) = found["a null in a history"]
    assert (status, row["item_ids"], row["unknown"]) == (200, [item.item_id for item in known.items], 1)
    status, (row,) = found["no history"]
    assert (status, row["unknown"], row["by_popularity"]) == (200, 0, True)
    status, (row,) = found["whole numbers"]
    assert (status, row["unknown"]) == (200, 2)
    for name, words in {
        "a fraction": "1.5 is no item id",
        "a list in a list": "is no item id",
        "a text as history": "history",
        "too many": "k = 99: expected 1 to 12",
        "too few": "k: Input should be greater than or equal to 1",
        "nothing allowed": "leave no item",
        "a text as list": "deny",
        "an unknown way to rank": "rank_by: Input should be 'fused', 'generative' or 'dense'",
        "a number as a way to rank": "rank_by",
    }.items():
        status, message = found[name]
        assert (status, words in message) == (400, True), (name, message)


@pytest.mark.slow
def test_requirements_name_what_the_carried_code_imports(registered):
    own, others = model_package.imported_modules(registered.model / "pyfunc_model.py")
    packages = {"mlflow": "mlflow-skinny", "ruamel": "ruamel.yaml"}
    assert {packages.get(name, name) for name in others} == set(model_package.REQUIREMENTS)
    carried = {path.relative_to(registered.model / "code") for path in (registered.model / "code").rglob("*.py")}
    assert carried == {path.relative_to(model_package.SOURCES) for path in own}
    assert Path("unigrec/serving/manifest.py") in carried  # one that the entry point imports through another
    pins = (registered.model / "requirements.txt").read_text().split()
    assert [pin.partition("==")[0] for pin in pins] == list(model_package.REQUIREMENTS)
    assert not any("+" in pin for pin in pins)


@pytest.mark.slow
def test_a_model_that_lacks_some_of_its_code_is_found_out(registered, tmp_path):
    """Even where an installed copy of this package could stand in for it."""
    model = shutil.copytree(registered.model, tmp_path / "model")
    shutil.rmtree(model / "code")
    with pytest.raises(UnigrecError, match="not among the code that is stored with the model"):
        model_package.ask_stored(model, HISTORY, k=1)


@pytest.mark.slow
def test_no_stored_code_runs_in_our_processes(registered, tmp_path):
    path = list(sys.path)
    mark = tmp_path / "mark"
    for code in (registered.stored / "pyfunc_model.py", registered.stored / "code/unigrec/serving/bundle.py"):
        code.write_text(f"{code.read_text()}\nPath({str(mark)!r}).touch()\n")
    bundle = load_bundle(registered.params, "1")
    assert bundle.recommend([HISTORY], k=2) == Bundle.load(registered.bundle_folder).recommend([HISTORY], k=2)
    assert not mark.exists()
    assert sys.path == path


@pytest.mark.long  # it installs an environment
@pytest.mark.timeout(900)
def test_it_answers_in_a_fresh_environment_made_from_its_own_requirements(registered, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    python = str(tmp_path / "venv/bin/python")
    requirements = str(registered.model / "requirements.txt")
    # Without a pip of its own, and not compiled: half of the time, for an environment that one process runs in.
    for command in (
        ["venv", "--without-pip", str(tmp_path / "venv")],
        ["pip", "--python", python, "install", "--quiet", "--no-compile", "-r", requirements],
    ):
        subprocess.run([sys.executable, "-m", *command], check=True, timeout=600, env=environment)
    absent = subprocess.run([python, "-c", "import unigrec"], capture_output=True, text=True, cwd=tmp_path, env={})
    assert "No module named 'unigrec'" in absent.stderr
    given = answers(python, registered.model, tmp_path, [body(*request) for request in REQUESTS.values()])
    assert_equal_to_the_bundles(given, registered.bundle_folder)
