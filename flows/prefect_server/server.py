"""A Prefect server for the length of one run, if no other server is configured.

Prefect would start one by itself, but that one outlives a killed flow, and starts only when the first call needs it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import httpx
from prefect import tags
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, PREFECT_HOME, temporary_settings

from flows.prefect_server.process_tags import process_tag
from flows.prefect_server.runs import sweep
from flows.stages.foreign_clone import foreign_clone
from flows.stages.processes import start_supervised, stop
from unigrec.base.errors import UnigrecError
from unigrec.base.launcher import report
from unigrec.base.lock import exclusive
from unigrec.base.loopback import ask_this_machine_directly, drop_proxies_that_httpx_refuses
from unigrec.base.masking import masked

START_SECONDS = 120.0
EXIT_INTERRUPTED = 130  # a shell's exit code after Ctrl-C
REFUSED_STATUS = (401, 403)  # of HTTP: no such user or password, or no right
# Of a call to our own server, half a minute in all: it answers 503 while its database is busy, and does not come back
# once it is gone. For another server, the user sets the number.
OWN_RETRIES = 4
APPLICATION = ("--factory", "prefect.server.api.server:create_app", "--lifespan", "on")
ON_THIS_MACHINE_ONLY = ("--host", "127.0.0.1", "--log-level", "error")
LOG = "server.log"  # in PREFECT_HOME
START_LOCK = "start.lock"  # there too: servers that start at once would migrate one database at the same moment


def run_here(job: Callable[[], int]) -> int:
    """Run a flow's command with a server to report to. Returns its exit code, or one of errors.py."""
    drop_proxies_that_httpx_refuses()
    try:
        with foreign_clone(), prefect_server():
            return job()
    except Exception as error:
        return report(error)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from where it was", file=sys.stderr)
        return EXIT_INTERRUPTED


@contextmanager
def prefect_server() -> Iterator[None]:
    """Within the block, flows report to the configured server, or to one of our own on 127.0.0.1.

    First, runs that a killed process of this machine left open there are marked as crashed.

    Raises:
        UnigrecError: the server does not answer, at the start or later.
    """
    ask_this_machine_directly()
    PREFECT_HOME.value().mkdir(parents=True, exist_ok=True)
    with _own_server() if not PREFECT_API_URL.value() else nullcontext():
        url = masked(str(PREFECT_API_URL.value()))
        try:
            check_health("start it, or unset PREFECT_API_URL to do without: each run then brings its own")
            sweep()
            with tags(process_tag()):
                yield
        except (httpx.TransportError, PrefectHTTPStatusError, ConcurrencySlotAcquisitionError) as error:
            raise UnigrecError(
                f"the Prefect server at {url} stopped answering: {masked(str(error))}; what was trained is kept, the "
                "same command goes on from there"
            ) from error


def check_health(advice: str) -> None:
    """Raise UnigrecError if the configured server does not answer, or refuses the password.

    advice: what to do if it does not answer; ends the message.
    """
    url = masked(str(PREFECT_API_URL.value()))
    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
        if error is not None:
            raise UnigrecError(f"the Prefect server at {url} does not answer: {masked(str(error))}; {advice}")
        try:
            client.api_version()  # the health is told without a password
        except PrefectHTTPStatusError as refusal:
            if refusal.response.status_code not in REFUSED_STATUS:
                raise
            raise UnigrecError(
                f"the Prefect server at {url} refuses this user or password; set PREFECT_API_AUTH_STRING to the "
                "server's user:password"
            ) from refusal


@contextmanager
def _own_server() -> Iterator[None]:
    """A server of our own, until the block ends. Raises UnigrecError, with its log, if it does not answer in time."""
    home = PREFECT_HOME.value()
    with ExitStack() as stack:
        with exclusive(home / START_LOCK, wait_seconds=2 * START_SECONDS):
            port = free_port()
            url = f"http://127.0.0.1:{port}/api"
            process = _launch_server(port, home / LOG)
            stack.callback(stop, process)
            wait_until_healthy("the Prefect server", f"{url}/health", process, log=home / LOG)
        with temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: OWN_RETRIES}):
            try:
                yield
            finally:
                APILogHandler().flush()  # later, queued lines would find no server


def _launch_server(port: int, log: Path) -> subprocess.Popen:
    with log.open("a") as file:  # another server may be writing there
        return start_supervised(
            [sys.executable, "-m", "uvicorn", *APPLICATION, *ON_THIS_MACHINE_ONLY, "--port", str(port)],
            env={
                **os.environ,
                "PREFECT_UI_ENABLED": "0",
                "PREFECT__SERVER_EPHEMERAL": "1",
                "PREFECT__SERVER_FINAL": "1",
            },
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_healthy(
    name: str, url: str, process: subprocess.Popen, log: Path, seconds: float = START_SECONDS
) -> None:
    """Return once an address answers 200. Raises UnigrecError if the process ends, or does not answer in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5.0) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    state = "ended" if process.poll() is not None else f"did not answer within {seconds:.0f} s"
    raise UnigrecError(f"{name} {state}; its log is {log}")
