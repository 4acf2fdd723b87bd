"""`unigrec snapshot`: what is taken, what is not, and what stays as it was."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from support.project import PARAMS_FILE
from support.tiny_model import make_bundle
from unigrec.base import files, paths
from unigrec.base.errors import EXIT_BAD_INPUT, EXIT_INVALID_DATA, EXIT_OK, InvalidDataError, UnigrecError
from unigrec.base.lock import exclusive
from unigrec.base.paths import Artifacts
from unigrec.cli import app
from unigrec.config.edit import configure
from unigrec.config.read import load_params
from unigrec.pipeline import stages

INCOMING = Path("data/incoming")


@pytest.fixture(autouse=True)
def _project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS_FILE.read_text())
    INCOMING.mkdir(parents=True)


def deliver(users: int, prefix: str = "u") -> None:
    """Each user buys the next ten of 40 items, one a day."""
    rows = [(f"{prefix}{user}", f"i{(user + step) % 40}", 86_400 * step) for user in range(users) for step in range(10)]
    names = ("user_id", "item_id", "timestamp")
    pq.write_table(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), INCOMING / "interactions.parquet")
    ids = [f"i{item}" for item in range(40)]
    pq.write_table(pa.table({"item_id": ids, "title": ids}), INCOMING / "items.parquet")


def take() -> tuple[int, str]:
    result = CliRunner().invoke(app, ["snapshot"], env={"COLUMNS": "120"})
    if isinstance(result.exception, UnigrecError):
        return result.exception.exit_code, str(result.exception)
    return result.exit_code, result.output


def test_first_snapshot_then_nothing_new_then_growth_then_a_stop_that_changes_nothing():
    deliver(60)
    code, said = take()
    assert code == EXIT_OK
    assert "600 interactions (600 new, 0 were there already), 60 users, 40 items; before it: None" in said
    assert "unigrec configure --data data/current" in said
    assert take() == (
        EXIT_OK,
        f"data/incoming: nothing new compared with snapshot {paths.CURRENT.readlink().name}: nothing to train on\n",
    )

    configure(Path("params.yaml"), data=str(paths.CURRENT))
    first = paths.CURRENT.readlink().name
    deliver(80)
    code, said = take()
    assert (code, said.count("\n")) == (EXIT_OK, 1)
    assert f"800 interactions (200 new, 600 were there already), 80 users, 40 items; before it: {first}" in said

    configure(Path("params.yaml"), settings=["snapshot.mode=replace"])
    second = paths.CURRENT.readlink().name
    deliver(80, prefix="shop-")
    code, said = take()
    assert code == EXIT_INVALID_DATA
    assert f"data/incoming was not taken, data/current stays snapshot {second}" in said
    assert "at most 30 % of the users before are gone (80 of 80; now: 80 users)" in said
    assert "state/snapshot/data_docs/index.html" in said
    assert (paths.ARRIVED / "data_docs/index.html").is_file()
    assert paths.CURRENT.readlink().name == second
    assert sorted(folder.name for folder in paths.SNAPSHOTS.iterdir()) == sorted([first, second])
    assert not Artifacts().root.exists()


@pytest.mark.parametrize(("origin", "taken"), [("sample: infra/sample.yaml", True), ("folder: data/current", False)])
def test_the_first_delivery_is_compared_with_a_registered_run_on_snapshots_alone(origin, taken):
    files.write_json(paths.REFERENCE, {"origin": origin, "interactions": 20_000, "items": 800, "users": 2_000})
    deliver(60)
    code, said = take()
    assert code == (EXIT_OK if taken else EXIT_INVALID_DATA), said
    assert ("last registered run's, 20000; found 600" in said) != taken


def test_a_delivery_may_grow_the_data_beyond_what_the_registered_run_had():
    deliver(60)
    assert take()[0] == EXIT_OK
    configure(Path("params.yaml"), data=str(paths.CURRENT))
    files.write_json(paths.REFERENCE, {"origin": "folder: data/current", "interactions": 600, "items": 40, "users": 60})
    deliver(130)
    code, said = take()
    assert code == EXIT_OK, said


@pytest.mark.slow
def test_the_validate_stage_reads_the_drift_of_the_snapshot_that_was_ingested():
    deliver(60)
    take()
    configure(Path("params.yaml"), data=str(paths.CURRENT))
    assert stages_validate()["snapshot"] == "not checked: the first snapshot: there is none to compare with"
    deliver(90)
    take()
    assert stages_validate()["snapshot"] is None
    configure(Path("params.yaml"), settings=["validate.previous.growth.warn=0.1", "validate.previous.growth.stop=0.4"])
    with pytest.raises(InvalidDataError, match=r"interactions grow by at most 40 % \(600 -> 900\)"):
        stages_validate()


def stages_validate() -> dict[str, str | None]:
    """Ingest and validate; a reason for each table where its last expectation was not checked."""
    params = load_params(Path("params.yaml"))
    stages.ingest(params, Artifacts())
    stages.validate(params, Artifacts())
    return {finding["table"]: finding["reason"] for finding in files.read_json(Artifacts().validation)["expectations"]}


def test_without_a_delivery_the_message_says_where_it_should_lie():
    INCOMING.rmdir()
    with pytest.raises(UnigrecError, match="data/incoming: no such folder"):
        stages_snapshot()


def stages_snapshot():
    from unigrec.commands import snapshot

    snapshot.take_delivery(load_params(Path("params.yaml")), Path("params.yaml"))


@pytest.mark.slow
def test_new_data_is_trained_on_from_the_champion_where_there_is_one(monkeypatch):
    deliver(60)
    configure(Path("params.yaml"), settings=["snapshot.start=champion"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert "the next training starts from scratch, as before" in take()[1]
    bundle = make_bundle()
    register_and_promote(bundle)
    assert "\n" not in take()[1].strip()  # nothing new: nothing is started from anything
    assert load_params(Path("params.yaml")).warm_start.path == "infra/cold_start.yaml"
    deliver(61)
    assert f"the next training starts from champion, {paths.BUNDLES / bundle.name}" in take()[1]
    assert load_params(Path("params.yaml")).warm_start.path == str(paths.BUNDLES / bundle.name)


def register_and_promote(bundle: Path) -> None:
    for command in (["register", "--bundle", str(bundle)], ["promote"]):
        result = CliRunner().invoke(app, command, env={"COLUMNS": "120"})
        assert result.exit_code == EXIT_OK, result.output


def test_data_is_not_changed_under_a_run():
    deliver(60)
    with exclusive(paths.LOCK):
        code, said = take()
    assert code == EXIT_BAD_INPUT
    assert "another run is at work" in said
    assert not paths.CURRENT.exists()
