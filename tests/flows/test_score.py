"""The flow that scores after a promotion: off without a log, else it writes what params name."""

from __future__ import annotations

import shutil

import pytest

from flows import score
from support.command_line import invoke
from support.project import PARAMS_FILE
from support.tiny_model import bundle_in
from unigrec.base import files
from unigrec.base.errors import UnigrecError


@pytest.fixture
def lines(tmp_path, monkeypatch) -> list[str]:
    """A project's folder, and what the run logs."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(PARAMS_FILE, tmp_path)
    said: list[str] = []
    monkeypatch.setattr(score, "emitter", lambda: said.append)
    return said


def test_without_a_log_nothing_is_scored(lines, tmp_path):
    state = score.score.fn()
    assert (state.name, state.message) == ("Skipped", "nothing is scored: score.histories is not set")
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_a_version_may_be_a_number(lines, tmp_path, monkeypatch):
    assert invoke("configure", "--set", "score.histories=log.csv")[0] == 0
    monkeypatch.setattr(score.commands, "score", lambda params, model, *_, **__: repr(model))
    assert score.score.fn(11).message == "'11'"


def test_the_log_that_params_name_is_scored_by_the_model(lines, tmp_path):
    bundle = bundle_in(tmp_path)
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,P3,1\nu,P4,2\nv,gone,1\n")
    settings = ["score.histories=log.csv", "score.k=2", "score.exclude_history=true", "score.workers=1"]
    assert invoke("configure", *(word for setting in settings for word in ("--set", setting)))[0] == 0
    state = score.score.fn(str(bundle))
    assert state.message.startswith("state/lists.parquet: 2 users, 4 rows, by ")
    rows = files.read_table(tmp_path / "state/lists.parquet").to_pylist()
    assert {row["item_id"] for row in rows if row["user_id"] == "u"}.isdisjoint({"P3", "P4"})
    assert [row["by_popularity"] for row in rows if row["user_id"] == "v"] == [True, True]
    assert lines == []
    with pytest.raises(UnigrecError, match="no such bundle"):
        score.score.fn("./none")
