"""`make serve-local` in a small project: its processes, its Prefect client, and a webhook server."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from support.project import PARAMS_FILE, ROOT
from unigrec.registry.tracking import PASSWORD_VARIABLE

SECRET_PATH = "/hooks/pl4nted-s3cret"


class Webhook:
    """A server on 127.0.0.1 that stores the posted messages."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.status = 200
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert (self.path, self.headers["Content-Type"]) == (SECRET_PATH, "application/json")
                webhook.received.append(json.loads(body))
                self.send_response(webhook.status)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}{SECRET_PATH}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def posted(self, text: str, seconds: float = 120) -> dict[str, Any]:
        """Wait for a message that contains the text, and return it."""
        return wait_for(lambda: next((post for post in self.received if text in post["text"]), None), seconds, text)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Local:
    """The running servers and worker of one project."""

    def __init__(self, folder: Path, process: subprocess.Popen, client: SyncPrefectClient, environment: dict[str, str]):
        self.folder, self.process, self.client, self.environment = folder, process, client, environment

    def start(self, deployment: str, **parameters: Any) -> FlowRun:
        found = next(known for known in self.client.read_deployments() if known.name == deployment)
        return self.client.create_flow_run_from_deployment(found.id, parameters=parameters)

    def nap(self) -> FlowRun:
        """Start a run of the deployment `nap`; returns it when its child process sleeps."""
        (self.folder / "napping").unlink(missing_ok=True)
        run = self.start("nap")
        wait_for((self.folder / "napping").exists, 600, "a nap")
        return run

    def state(self, run: FlowRun) -> Any:
        return self.client.read_flow_run(run.id).state

    def ended(self, run: FlowRun, seconds: float = 600) -> Any:
        """Wait until a run has ended, and return its state."""
        wait_for(lambda: self.state(run).is_final(), seconds, f"{run.name} to end")
        return self.state(run)


def wait_for(ask: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"waited too long for: {what}"
        time.sleep(0.2)
    return answer


@contextmanager
def serve_local(folder: Path, **environment: str) -> Iterator[Local]:
    """Run the command of `make serve-local` in a folder with a project and its prefect.yaml; stops it at the end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    surroundings = {**clean, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "flows.services", "--open", "--worker"]
    output = folder / "output"
    with output.open("w") as file:
        process = subprocess.Popen(command, cwd=folder, env=surroundings, stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: "export" in output.read_text() or process.poll() is not None, 900, "the servers")
        assert process.poll() is None, output.read_text()
        addresses = dict(re.findall(r"(\w+)=(http\S+)", output.read_text()))
        settings = {PREFECT_API_URL: addresses["PREFECT_API_URL"]}
        if PASSWORD_VARIABLE in environment:
            settings[PREFECT_API_AUTH_STRING] = f"admin:{environment[PASSWORD_VARIABLE]}"
        with temporary_settings(settings), get_client(sync_client=True) as client:
            yield Local(folder, process, client, surroundings | addresses)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


def write_deployments(folder: Path, **schedules: list[dict[str, Any]]) -> None:
    """Write the committed prefect.yaml with these schedules only, and `nap` with the concurrency limit of `retrain`."""
    values = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    retrain = next(found for found in values["deployments"] if found["name"] == "retrain")
    values["deployments"].append({**retrain, "name": "nap", "entrypoint": "nap.nap", "parameters": {}})
    for deployment in values["deployments"]:
        deployment["schedules"] = schedules.get(deployment["name"], [])
    (folder / "prefect.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def copy_code(folder: Path) -> None:
    """Copy the files that a worktree of the folder's repository needs to run flows and stages with its own code."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "flows", "infra"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for source in (PARAMS_FILE, ROOT / ".gitignore", Path(__file__).with_name("nap.py")):
        shutil.copy(source, folder)
