"""MLflow, Prefect and its worker as plain processes of this machine, on SQLite.

`python -m flows.services` starts the two servers on 127.0.0.1, prints their addresses, and stops them on Ctrl-C. With
`--worker` it also registers prefect.yaml and starts a worker in this folder. `python -m flows.services -- command ...`
runs a command next to the servers and ends with its exit status. Data stays in state/services.

One password, from MLFLOW_TRACKING_PASSWORD, opens both servers. It travels in the environment only: no file, no address
and no command line holds it. With `--open` no password is needed, unless one is set. infra/ runs the same services on
PostgreSQL.
"""

from __future__ import annotations

import argparse
import configparser
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import httpx
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows.deploy import POOL
from flows.prefect_server.runs import sweep
from flows.prefect_server.server import EXIT_INTERRUPTED, free_port, wait_until_healthy
from flows.stages.processes import child_environment, start_supervised, stop
from unigrec.base.errors import EXIT_OK, UnigrecError
from unigrec.base.launcher import report
from unigrec.base.loopback import ask_this_machine_directly, drop_proxies_that_httpx_refuses
from unigrec.base.masking import WEBHOOK_VARIABLE
from unigrec.registry.tracking import PASSWORD_VARIABLE, URI_VARIABLE, USER_VARIABLE

STATE = Path("state/services")
HOST = "127.0.0.1"
START_SECONDS = 300.0  # the first start makes the tables by running every migration of every release
AUTH_SETTINGS = Path(__file__).parents[1] / "infra/mlflow/basic_auth.ini"
MIN_PASSWORD = 12  # MLflow's own minimum


class Services(NamedTuple):
    """Addresses of the servers. `environment` is what a client needs; it holds the password."""

    mlflow: str
    prefect: str
    environment: dict[str, str]


@contextmanager
def services(folder: Path, user: str, password: str | None) -> Iterator[Services]:
    """Within the block, MLflow and Prefect answer.

    Args:
        folder: for data and logs.
        user, password: MLflow's administrator, and Prefect's only user. MLflow keeps the password with which its
            database was made. None: MLflow and Prefect ask for no password.

    Raises:
        UnigrecError: a server does not start; the message names its log.
    """
    _check_password(password)
    ask_this_machine_directly()
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        mlflow = stack.enter_context(_mlflow(folder, user, password))
        prefect = stack.enter_context(_prefect(folder, user, password))
        environment = {URI_VARIABLE: mlflow, "PREFECT_API_URL": f"{prefect}/api"}
        if password is not None:
            environment |= {
                USER_VARIABLE: user,
                PASSWORD_VARIABLE: password,
                "PREFECT_API_AUTH_STRING": f"{user}:{password}",
            }
        yield Services(mlflow, prefect, environment)


@contextmanager
def _mlflow(folder: Path, user: str, password: str | None) -> Iterator[str]:
    """An MLflow server through which artifacts go too, with basic authentication if there is a password.

    Yields its address.
    """
    port = free_port()
    url = f"http://{HOST}:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", HOST, "--port", str(port), "--artifacts-destination", str(folder / "artifacts")]
    environment = {
        **_without_clients(),
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    if password is not None:
        settings = configparser.ConfigParser()
        settings.read(AUTH_SETTINGS, encoding="utf-8")
        settings["mlflow"]["database_uri"] = f"sqlite:///{folder}/mlflow_auth.db"
        with (folder / "basic_auth.ini").open("w", encoding="utf-8") as stream:
            settings.write(stream)
        command += ["--app-name", "basic-auth"]
        environment |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
            "MLFLOW_AUTH_ADMIN_USERNAME": user,
            "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        }
    with _running("MLflow", command, folder, environment=environment) as process:
        wait_until_healthy("MLflow", f"{url}/health", process, log=folder / "mlflow.log", seconds=START_SECONDS)
        yield url


@contextmanager
def _prefect(folder: Path, user: str, password: str | None) -> Iterator[str]:
    """Prefect's server, with basic authentication if there is a password. Yields its address."""
    port = free_port()
    url = f"http://{HOST}:{port}"
    environment = {
        **_without_clients(),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder}/prefect.db",
    }
    if password is not None:
        environment["PREFECT_SERVER_API_AUTH_STRING"] = f"{user}:{password}"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port), "--no-ui"]
    with _running("Prefect", command, folder, environment=environment) as process:
        wait_until_healthy("Prefect", f"{url}/api/health", process, log=folder / "prefect.log", seconds=START_SECONDS)
        yield url


@contextmanager
def worker(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Within the block, prefect.yaml's deployments are registered, and a worker in the working directory runs them.

    Args:
        folder: for the worker's log.
        environment: `Services.environment`, which a client needs.

    Raises:
        UnigrecError: the server refuses a deployment.
    """
    PREFECT_HOME.value().mkdir(parents=True, exist_ok=True)
    _sweep(environment)  # the runs of a worker that was killed, as by a power cut
    settings = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING", **environment}
    clients = child_environment({**os.environ, **settings})
    registered = subprocess.run([sys.executable, "-m", "flows.deploy"], env=clients, capture_output=True, text=True)
    if registered.returncode:
        raise UnigrecError(registered.stderr.strip().removeprefix("error: "))
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    clients.pop(WEBHOOK_VARIABLE, None)  # the server holds it by now, and no flow needs it
    try:
        with _running("worker", command, folder, environment=clients, cwd=Path.cwd()):
            yield
    finally:
        with suppress(httpx.HTTPError):  # the server has died; the next start does it
            _sweep(environment)


def _sweep(environment: dict[str, str]) -> None:
    """Bury the pool's runs. Our worker is the pool's only one: while it is not running, nobody is at work on them."""
    settings = {PREFECT_API_URL: environment["PREFECT_API_URL"]}
    if secret := environment.get("PREFECT_API_AUTH_STRING"):
        settings[PREFECT_API_AUTH_STRING] = secret
    with temporary_settings(settings):
        sweep(pool=POOL)


def _without_clients() -> dict[str, str]:
    """The environment without the settings of clients, which a server would read as its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PREFECT_"))}
    telemetry = {"MLFLOW_DISABLE_TELEMETRY": "true", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    return child_environment(kept) | telemetry


@contextmanager
def _running(
    name: str, command: list[str], folder: Path, environment: dict[str, str], cwd: Path | None = None
) -> Iterator[subprocess.Popen]:
    """A supervised process in `cwd` (default: `folder`) that logs to `folder`; stopped at the end of the block."""
    with (folder / f"{name.lower()}.log").open("w") as log:
        process = start_supervised(command, stdout=log, stderr=subprocess.STDOUT, cwd=cwd or folder, env=environment)
    try:
        yield process
    finally:
        stop(process)


def _check_password(password: str | None) -> None:
    if password is None:
        return
    if len(password) < MIN_PASSWORD or not password.isprintable():
        raise UnigrecError(
            f"{PASSWORD_VARIABLE}: set it to a password of {MIN_PASSWORD} or more printable characters; it opens the "
            "services"
        )


def _addresses(running: Services, user: str, closed: bool, with_worker: bool) -> str:
    """What to print: the addresses, and what another terminal needs. No password."""
    who = f"user {user}" if closed else "open to everybody on this machine"
    servers = f"MLflow {running.mlflow}, Prefect {running.prefect}, {who}, on SQLite"
    if not with_worker:
        return servers
    variables = " ".join(f"{name}={running.environment[name]}" for name in (URI_VARIABLE, "PREFECT_API_URL"))
    return f"{servers}\na worker of the pool {POOL} waits for scheduled runs; for another terminal: export {variables}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the services, wait or run the command, stop them. Returns the command's exit code, or that of errors.py."""
    parser = argparse.ArgumentParser(prog="python -m flows.services", description=__doc__, allow_abbrev=False)
    parser.add_argument("--state", type=Path, default=STATE, help="folder for data and logs (default: %(default)s)")
    parser.add_argument("--worker", action="store_true", help="register prefect.yaml, and run what it schedules here")
    parser.add_argument("--open", action="store_true", help=f"no passwords, unless {PASSWORD_VARIABLE} is set")
    parser.add_argument("command", nargs="*", help="run it next to the services, and stop them when it has ended")
    asked = parser.parse_args(arguments)
    user, password = os.environ.get(USER_VARIABLE, "admin"), os.environ.get(PASSWORD_VARIABLE, "")
    drop_proxies_that_httpx_refuses()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager stops us as Ctrl-C does
    try:
        with ExitStack() as stack:
            secret = None if asked.open and not password else password
            running = stack.enter_context(services(asked.state, user, secret))
            if asked.worker:
                stack.enter_context(worker(asked.state.absolute(), running.environment))
            print(_addresses(running, user, closed=secret is not None, with_worker=asked.worker), flush=True)
            if asked.command:
                environment = child_environment({**os.environ, **running.environment})
                return subprocess.run(asked.command, env=environment).returncode
            signal.pause()
    except Exception as error:
        return report(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED if asked.command else EXIT_OK  # without a command, this is how they are to end
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
