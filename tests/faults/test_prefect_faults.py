"""Prefect's server is down, or dies while a flow runs: a one-line error soon, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import httpx
import pytest
from flows.prefect_server.server import free_port, prefect_server
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import retrain
from flows.prefect_server import server
from support.faulty_proxy import ERROR, faulty_proxy
from unigrec.base.errors import EXIT_BAD_INPUT, UnigrecError


def test_a_server_that_is_down_is_named_before_anything_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["retrain"])
    address = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: address}):
        assert retrain.main() == EXIT_BAD_INPUT
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"error: the Prefect server at {address} does not answer: ")
    assert errors.endswith("; start it, or unset PREFECT_API_URL to do without: each run then brings its own\n")


def test_a_server_that_answers_with_errors_is_down():
    with (
        faulty_proxy(lambda number: ERROR) as proxy,
        temporary_settings({PREFECT_API_URL: f"{proxy.address}/api"}),
        pytest.raises(UnigrecError, match=f"^the Prefect server at {proxy.address}/api does not answer: .*500"),
        prefect_server(),
    ):
        pass


@pytest.mark.slow
def test_servers_of_one_home_that_start_at_the_same_moment_all_answer(tmp_path):
    command = [
        sys.executable,
        "-c",
        "from flows.prefect_server.server import prefect_server\nwith prefect_server(): print('answers')",
    ]
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path)}
    environment.pop("PREFECT_API_URL", None)
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in started]
    assert [output.splitlines()[-1] for output in outputs] == ["answers"] * 3, outputs


@pytest.mark.parametrize("raised_by_prefect", [httpx.ConnectError, ConcurrencySlotAcquisitionError])
def test_a_server_that_dies_meanwhile_is_an_error_that_says_how_to_go_on(raised_by_prefect, monkeypatch):
    monkeypatch.setattr(server, "check_health", lambda advice: None)
    monkeypatch.setattr(server, "sweep", lambda: None)
    with (
        temporary_settings({PREFECT_API_URL: "http://user:s3cret@127.0.0.1:9/api"}),
        pytest.raises(UnigrecError, match=r"stopped answering: refused; .* the same command goes on") as raised,
        prefect_server(),
    ):
        raise raised_by_prefect("refused")
    assert "s3cret" not in str(raised.value)
