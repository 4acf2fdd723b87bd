"""MLflow and Prefect with passwords, as real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from flows.prefect_server.server import EXIT_INTERRUPTED
from flows.services import Services, main, services

from flows import services as module
from support.tiny_model import make_bundle
from unigrec.base.errors import EXIT_BAD_INPUT, EXIT_OK, UnigrecError
from unigrec.config.schema import RegisterParams
from unigrec.registry.tracking import PASSWORD_VARIABLE, URI_VARIABLE, USER_VARIABLE, mlflow_client
from unigrec.registry.versions import load_bundle, register

USER, PASSWORD, WRONG = "joe", "pl4nted'secret-one", "pl4nted-secret-two"
PARAMS = RegisterParams(tracking_uri="sqlite:///unused.db", experiment="tests", model_name="tiny")
pytestmark = pytest.mark.timeout(900)  # two servers start, and hash passwords
LOOPBACK = "0100007F"  # 127.0.0.1 in /proc/net/tcp


@pytest.fixture(scope="module")
def state(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("services")


@pytest.fixture(scope="module")
def running(state) -> Iterator[Services]:
    pytest.importorskip("flask_wtf", reason="MLflow's authentication needs Flask-WTF: make install")
    with services(state, USER, PASSWORD) as found:
        yield found


@pytest.fixture
def client(running, tmp_path, monkeypatch) -> pytest.MonkeyPatch:
    """A client's environment and folder; the settings are gone after the test."""
    monkeypatch.chdir(tmp_path)
    for name in (URI_VARIABLE, USER_VARIABLE, PASSWORD_VARIABLE):
        monkeypatch.setenv(name, running.environment[name])
    return monkeypatch


def status(url: str, password: str | None = None, body: dict | None = None) -> int:
    headers = {"Content-Type": "application/json"}
    if password:
        headers["Authorization"] = f"Basic {b64encode(f'{USER}:{password}'.encode()).decode()}"
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_a_bundle_is_registered_with_the_right_password_and_loads_back(client):
    done = register(make_bundle(), PARAMS)
    assert (done.version, done.created) == ("1", True)
    with mlflow_client(PARAMS) as found:
        assert found.get_registered_model("tiny").aliases == {"challenger": "1"}
    assert len(load_bundle(PARAMS, "1").recommend([["P3"]], k=2)[0].items) == 2


@pytest.mark.slow
@pytest.mark.parametrize("in_the_address", [True, False])
def test_a_wrong_password_is_an_error_that_says_so_and_hides_it(client, running, in_the_address, capfd):
    if in_the_address:
        client.setenv(URI_VARIABLE, running.mlflow.replace("://", f"://{USER}:{WRONG}@"))
    else:
        client.setenv(PASSWORD_VARIABLE, WRONG)
    with pytest.raises(UnigrecError, match=f"{running.mlflow} refuses this user or password.*{PASSWORD_VARIABLE}") as e:
        register(make_bundle(), PARAMS)
    assert WRONG not in str(e.value) + "".join(capfd.readouterr())


@pytest.mark.slow
def test_both_servers_ask_for_the_password(running):
    experiments = f"{running.mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    assert [status(experiments, password) for password in (None, WRONG, PASSWORD)] == [401, 401, 200]
    flows = f"{running.prefect}/api/flows/"
    made = [status(flows, password, {"name": "nightly"}) for password in (None, WRONG, PASSWORD)]
    assert made == [401, 401, 201]


@pytest.mark.slow
def test_they_listen_on_this_machine_alone(running):
    ports = {f"{int(url.rpartition(':')[2]):04X}" for url in (running.mlflow, running.prefect)}
    lines = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    listening = [line[1].split(":") for line in lines if line[3] == "0A"]
    found = [(address, port) for address, port in listening if port in ports]
    assert sorted(found) == sorted((LOOPBACK, port) for port in ports)


@pytest.mark.slow
def test_no_password_is_in_a_log_a_file_or_a_command_line(running, state):
    """After the tests above, which used the right and a wrong one."""
    files = [path for path in state.rglob("*") if path.is_file()]
    assert {"mlflow.log", "prefect.log", "basic_auth.ini"} <= {path.name for path in files}
    needles = [PASSWORD.encode(), WRONG.encode(), b64encode(f"{USER}:{PASSWORD}".encode())]
    assert [path for path in files if any(needle in path.read_bytes() for needle in needles)] == []
    commands = [path for path in Path("/proc").glob("[0-9]*/cmdline") if _holds(path, str(state).encode())]
    assert len(commands) >= 2
    assert [path for path in commands if _holds(path, PASSWORD.encode())] == []


def _holds(path: Path, needle: bytes) -> bool:
    try:
        return needle in path.read_bytes()
    except OSError:  # the process has ended
        return False


@pytest.mark.slow
def test_a_command_runs_next_to_them_and_its_exit_status_is_handed_on(tmp_path):
    pytest.importorskip("flask_wtf", reason="MLflow's authentication needs Flask-WTF: make install")
    code = "import os, sys, urllib.request as r; r.urlopen(os.environ['MLFLOW_TRACKING_URI'] + '/health'); sys.exit(7)"
    command = [sys.executable, "-m", "flows.services", "--state", str(tmp_path), "--", sys.executable, "-c", code]
    environment = {**os.environ, PASSWORD_VARIABLE: PASSWORD}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert PASSWORD not in done.stdout + done.stderr


@pytest.mark.parametrize("password", ["", "short", "with a line\nend in it"])
def test_without_a_proper_password_nothing_is_started(password, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(PASSWORD_VARIABLE, password)
    assert main(["--state", str(tmp_path / "state")]) == EXIT_BAD_INPUT
    assert PASSWORD_VARIABLE in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_a_command_that_does_not_exist_is_an_error_in_a_line(monkeypatch, capsys):
    monkeypatch.setattr(module, "services", lambda *_: nullcontext(Services("", "", {})))
    monkeypatch.setattr(module.signal, "signal", lambda *_: None)
    assert main(["--open", "--", "pythn"]) == EXIT_BAD_INPUT
    assert capsys.readouterr().err == "error: pythn: No such file or directory\n"


@pytest.mark.parametrize(("command", "code"), [(["--", "train"], EXIT_INTERRUPTED), ([], EXIT_OK)])
def test_a_command_that_was_interrupted_has_not_succeeded(command, code, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "services", lambda *_: nullcontext(Services("", "", {})))
    monkeypatch.setattr(module.signal, "signal", lambda *_: None)
    monkeypatch.setattr(module.signal, "pause", interrupted)
    monkeypatch.setattr(module.subprocess, "run", interrupted)
    assert main(["--open", *command]) == code
