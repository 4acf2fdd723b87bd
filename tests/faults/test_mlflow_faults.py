"""MLflow is down, or responds with errors, pages or nothing: the model is kept, and one command registers it later."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from flows.prefect_server.server import free_port, wait_until_healthy
from flows.stages.processes import start_supervised, stop

from support.faulty_proxy import CUT, ERROR, HANG, PAGE, PASS, SLOW, Proxy, faulty_proxy
from support.tiny_model import make_bundle
from unigrec.base.errors import EXIT_BAD_INPUT, UnigrecError
from unigrec.config.schema import RegisterParams
from unigrec.core.decisions.comparison import CHALLENGER
from unigrec.registry.tracking import mlflow_client
from unigrec.registry.versions import register, version_of
from unigrec.serving.manifest import open_bundle


@pytest.fixture
def client_settings(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def at(address: str) -> RegisterParams:
    return RegisterParams(tracking_uri=address, experiment="tests", model_name="tiny")


@pytest.mark.parametrize("what", [ERROR, PAGE, CUT, HANG])
def test_the_model_is_kept_and_the_error_names_the_command(client_settings, monkeypatch, what):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    bundle = make_bundle()
    with faulty_proxy(lambda number: what) as proxy:
        with pytest.raises(UnigrecError, match=f"^MLflow at {proxy.address} does not answer or refuses: ") as raised:
            register(bundle, at(proxy.address))
        assert proxy.seen == 1
    assert raised.value.exit_code == EXIT_BAD_INPUT
    said = str(raised.value)
    assert said.endswith(f"the trained model is kept; register it later with: unigrec register --bundle '{bundle}'")
    assert "\n" not in said
    open_bundle(bundle)


@pytest.fixture(scope="module")
def tracker(tmp_path_factory) -> Iterator[int]:
    """The port of a real MLflow server."""
    folder, port = tmp_path_factory.mktemp("tracker"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "a")]
    quiet = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as log:
        process = start_supervised(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=quiet)
    try:
        wait_until_healthy("MLflow", f"http://127.0.0.1:{port}/health", process, folder / "log", 300)
        yield port
    finally:
        stop(process)


def found(proxy: Proxy, bundle_id: str) -> tuple[list[str], list[str], str | None]:
    """Versions of a bundle in the store, the status of its runs, and the bundle id of the challenger."""
    with mlflow_client(at(proxy.address)) as client:
        tag = f"tags.bundle_id = '{bundle_id}'"
        versions = [str(one.version) for one in client.search_model_versions(f"name = 'tiny' and {tag}")]
        experiment = client.get_experiment_by_name("tests")
        runs = client.search_runs([experiment.experiment_id], tag)
        challenger = version_of(client, "tiny", CHALLENGER)
    return versions, [run.info.status for run in runs], challenger and challenger.tags["bundle_id"]


def register_new(seed: int, proxy: Proxy) -> int:
    """Register a bundle, perhaps after a failed attempt, and check the store; returns the number of requests."""
    bundle, proxy.seen = make_bundle(seed), 0
    assert register(bundle, at(proxy.address)).created
    requests = proxy.seen
    bundle_id = open_bundle(bundle)["id"]
    assert found(proxy, bundle_id) == ([str(seed + 1)], ["FINISHED"], bundle_id)
    assert not register(bundle, at(proxy.address)).created
    return requests


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_wherever_it_fails_one_more_register_catches_up(client_settings, tracker, monkeypatch):
    """The server fails from a given request on, until it is repaired. Each time a new bundle is registered."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with faulty_proxy(lambda number: PASS, tracker) as proxy:
        requests = register_new(0, proxy)
        print(f"a registration: {requests} requests")
        for seed, (share, what) in enumerate([(0.2, ERROR), (0.5, CUT), (0.7, PAGE), (0.9, ERROR)], start=1):
            first, proxy.seen = int(share * requests), 0
            proxy.fault = lambda number, first=first, what=what: what if number >= first else PASS
            with pytest.raises(UnigrecError, match=r"register it later with: unigrec register --bundle"):
                register(make_bundle(seed), at(proxy.address))
            assert proxy.seen > first
            proxy.fault = lambda number: PASS
            register_new(seed, proxy)
        proxy.fault = lambda number: SLOW
        register_new(5, proxy)
