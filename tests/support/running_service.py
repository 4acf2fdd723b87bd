"""`unigrec serve` in processes of its own, a registry for it, and clients that never stop asking."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.living import wait_for
from support.project import PARAMS_FILE
from support.promotions import MODEL, store
from support.tiny_model import make_bundle
from unigrec.registry.tracking import BUNDLE_TAG, mlflow_client
from unigrec.serving.manifest import open_bundle

START_SECONDS = 240.0  # on a machine that does other work too


@dataclass
class Running:
    """A service that answers at a port."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int = 0

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of a request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            return ask(connection, method, path, body)
        finally:
            connection.close()

    def ready(self) -> dict[str, Any]:
        return self.ask("GET", "/readyz")[2]


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any = None
) -> tuple[int, dict[str, str], Any]:
    connection.request(
        method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"} if body else {}
    )
    answer = connection.getresponse()
    text = answer.read()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, json.loads(text)


@contextmanager
def running(folder: Path, *options: str, **environment: str) -> Iterator[Running]:
    """Start the service in a project's folder, wait until it is ready, and end it after the block."""
    log = folder / "serve.log"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "UNIGREC_"))}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "unigrec.cli", "serve", "--port", "0", *options],
            cwd=folder,
            stderr=file,
            stdout=file,
            env=kept | environment,
        )
    found = Running(process, log)
    try:
        wait_for(lambda: "ready at" in log.read_text() or process.poll() is not None, START_SECONDS)
        match = re.search(r"ready at http://127\.0\.0\.1:(\d+)", log.read_text())
        assert match is not None, log.read_text()
        found.port = int(match[1])
        yield found
    finally:
        process.terminate()
        process.wait(60)


def make_registry(folder: Path, empty_store: Path, seeds: list[int]) -> Path:
    """A project's folder whose registry has a version per seed, and whose champion is the first; returns it."""
    shutil.copy(empty_store, folder / "mlflow.db")
    text = Path(PARAMS_FILE).read_text(encoding="utf-8")
    text = re.sub(r"model_name: \w+", f"model_name: {MODEL}", text)
    text = re.sub(r"watch_seconds: [\d.]+", "watch_seconds: 0.5", text)
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    with mlflow_client(store(folder)) as client:
        client.create_registered_model(MODEL)
        for number, seed in enumerate(seeds, start=1):
            with chdir(folder):
                bundle = make_bundle(seed)
            kept = folder / f"stored/{number}/artifacts/bundle"
            shutil.copytree(bundle, kept)
            tags = {"gate": "passed", BUNDLE_TAG: open_bundle(bundle)["id"]}
            client.create_model_version(MODEL, f"file://{folder}/stored/{number}", tags=tags)
        client.set_registered_model_alias(MODEL, "champion", "1")
    return folder


@dataclass
class Clients:
    """Threads that ask one request after the other, each on a connection that stays open.

    users: whose ids they give, in turn; 0: no id.
    """

    port: int
    count: int = 4
    users: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def answered(self) -> int:
        return sum(self.versions.values())

    def __enter__(self) -> Clients:
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Ask nothing more, and wait for what was asked."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for_more(self, count: int = 20) -> None:
        """Wait until so many more requests were answered."""
        goal = self.answered + count
        wait_for(lambda: self.answered >= goal or self.failed)

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        asked: dict[str, Any] = {"histories": [["P3", "P5"]], "k": 3}
        while not self._stop.is_set():
            if self.users:
                asked["user_id"] = next(self._numbers) % self.users
            try:
                status, headers, answer = ask(connection, "POST", "/v1/recommend", asked)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failed.append(repr(error))
                return
            if status != 200 or len(answer["answers"][0]["items"]) != 3:
                self.failed.append(f"{status}: {answer}")
                return
            version = headers["x-unigrec-version"]
            with self._lock:
                self.versions[version] = self.versions.get(version, 0) + 1
            time.sleep(0.002)
