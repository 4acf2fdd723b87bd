"""A store in SQLite for the tests of the registry."""

from __future__ import annotations

import shutil

import pytest

from unigrec.config.schema import RegisterParams
from unigrec.registry import versions as registry


@pytest.fixture
def params(tmp_path, monkeypatch, empty_store) -> RegisterParams:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return RegisterParams(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="tests", model_name="tiny")


@pytest.fixture
def unchecked(monkeypatch) -> None:
    """New versions are not loaded back, which takes a process of its own and seconds: tests of that do without this."""
    monkeypatch.setattr(registry, "_check_loads", lambda *_: None)
