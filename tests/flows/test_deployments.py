"""prefect.yaml: the flows that it names exist, with its parameters. Schedules are valid. It holds no secret."""

from __future__ import annotations

import inspect
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml
from flows.deploy import POOL, main
from flows.prefect_server.notifications import SILENT_SECONDS
from flows.prefect_server.server import run_here
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from support.project import ROOT
from unigrec.base.errors import EXIT_BAD_INPUT, EXIT_OK
from unigrec.base.masking import SECRET_VARIABLES, holds_credentials

TEXT = (ROOT / "prefect.yaml").read_text(encoding="utf-8")
DEPLOYMENTS: dict[str, dict[str, Any]] = {found["name"]: found for found in yaml.safe_load(TEXT)["deployments"]}


def flow_of(deployment: dict[str, Any]) -> Flow:
    return load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)


def test_the_jobs_are_there():
    assert set(DEPLOYMENTS) == {"retrain", "promote", "score", "housekeeping"}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployment_names_a_flow_and_gives_it_the_parameters_that_it_has(name):
    flow, given = flow_of(DEPLOYMENTS[name]), DEPLOYMENTS[name]["parameters"]
    assert set(given) == set(inspect.signature(flow.fn).parameters)
    assert flow.validate_parameters(given) == given


@pytest.mark.parametrize(("name", "parameter"), [("promote", "version"), ("score", "model")])
@pytest.mark.parametrize("value", [12, "12", "champion"])
def test_a_version_may_be_a_number(name, parameter, value):
    """`prefect deployment run --param version=12` reads the value as JSON."""
    assert flow_of(DEPLOYMENTS[name]).validate_parameters({parameter: value}) == {parameter: value}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_parameters_say_what_the_flow_does_by_itself(name):
    """A person who runs the flow by hand gets what the schedule runs."""
    signature = inspect.signature(flow_of(DEPLOYMENTS[name]).fn).parameters
    assert {key: value or None for key, value in DEPLOYMENTS[name]["parameters"].items()} == {
        key: found.default or None for key, found in signature.items()
    }


@pytest.mark.parametrize("name", ["retrain", "housekeeping"])
def test_schedules_are_valid_and_name_their_zone(name):
    (schedule,) = DEPLOYMENTS[name]["schedules"]
    assert CronSchedule(**schedule).timezone == "UTC"


def test_an_overlap_cancels_the_newer_training():
    assert DEPLOYMENTS["retrain"]["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


def test_a_worker_of_the_pool_runs_them_where_it_stands_and_fetches_nothing():
    for deployment in DEPLOYMENTS.values():
        assert deployment["work_pool"]["name"] == POOL
        assert deployment["work_pool"]["job_variables"]["working_dir"] == "."
    assert yaml.safe_load(TEXT)["pull"] == [{"prefect.deployments.steps.set_working_directory": {"directory": "."}}]


def test_every_run_sends_heartbeats_often_enough_for_the_silence_that_counts_as_death():
    for deployment in DEPLOYMENTS.values():
        every = int(deployment["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
        assert 30 <= every <= SILENT_SECONDS / 3  # Prefect takes fewer than 30 seconds for 30


def test_every_worker_of_infra_serves_the_pool_and_takes_several_runs():
    """During a training there must be room for a run that is to be cancelled, and for housekeeping."""
    files = ("compose.yaml", "kubernetes/worker.yaml", "systemd/unigrec-worker.service")
    for name in files:
        text = (ROOT / "infra" / name).read_text(encoding="utf-8")
        (start,) = re.findall(r"prefect,? worker,? start.*", text)
        assert re.search(rf"--pool,? {POOL}\b", start), name
        assert "--limit" not in start, name
        assert "flows.deploy" in text, name


def test_no_secret_is_in_it():
    assert not holds_credentials(TEXT)
    assert not [name for name in SECRET_VARIABLES if name in TEXT]
    assert "http" not in TEXT


class Guarded(BaseHTTPRequestHandler):
    """A Prefect server whose password nobody knows: it tells only its health."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 401)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_a_wrong_password_is_an_error_in_a_line(capsys):
    with ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: "joe:pl4nted-secret"}):
            code = main()
            said = capsys.readouterr().err
            assert run_here(lambda: EXIT_OK) == EXIT_BAD_INPUT
            assert capsys.readouterr().err == said
        server.shutdown()
    told = f"error: the Prefect server at {url} refuses this user or password; set PREFECT_API_AUTH_STRING "
    assert (code, said) == (EXIT_BAD_INPUT, f"{told}to the server's user:password\n")


def test_a_server_that_is_down_is_an_error_in_a_line(capsys):
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert main() == EXIT_BAD_INPUT
    assert re.fullmatch(
        r"error: the Prefect server at http://127\.0\.0\.1:9/api does not answer: .*\n", capsys.readouterr().err
    )
