"""Settings that must be there before the first import, one thing that no test leaves behind, and shared fixtures."""

import gc
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # one thread, which sleeps while it waits
gc.set_threshold(100_000)  # the objects of all imported libraries are a million: do not walk through them all the time


@pytest.fixture(autouse=True)
def torch_as_before():
    """A stage sets torch up for its whole process, which here goes on with other tests."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.use_deterministic_algorithms(False)
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A SQLite file with MLflow's tables, to be copied. Making the tables takes seconds: once."""
    from unigrec.config.schema import RegisterParams
    from unigrec.registry.tracking import mlflow_client

    folder = tmp_path_factory.mktemp("store")
    params = RegisterParams(tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment="e", model_name="m")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with mlflow_client(params):
            pass
    return folder / "mlflow.db"


@pytest.fixture
def without_pictures(monkeypatch) -> None:
    """Training stages draw nothing: the pictures of one stage take a second."""
    from unigrec.pipeline import running

    monkeypatch.setattr(running, "_show", lambda *_: None)
