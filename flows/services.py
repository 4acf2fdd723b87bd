"""The services of infra/compose.yaml as plain processes of this machine: PostgreSQL, MLflow, Prefect and its worker.

`python -m flows.services` starts the servers on 127.0.0.1, says where they are, and stops them on Ctrl-C; with
`--worker` also a worker in this folder, to which prefect.yaml's deployments are given. `python -m flows.services --
command ...` runs a command beside them and ends with its exit status. Data stays in state/services. One password, from
MLFLOW_TRACKING_PASSWORD, opens them all. It is handed on in the environment alone: no file, no address and no command
line holds it. `--open` does without where none is set.
"""

from __future__ import annotations

import argparse
import configparser
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.deploy import POOL
from flows.prefect_server import runs
from flows.prefect_server.server import free_port, wait_until_healthy
from flows.stages.processes import child_environment, start_supervised, stop
from unigrec.base.errors import UnigrecError
from unigrec.base.masking import HIDDEN, WEBHOOK_VARIABLE, masked
from unigrec.registry.tracking import PASSWORD_VARIABLE, URI_VARIABLE, USER_VARIABLE

STATE = Path("state/services")
HOST = "127.0.0.1"
START_SECONDS = 300.0  # the first start makes the tables, step by step, as all releases made them
DATABASE_USER = "unigrec"
DATABASES = ("mlflow", "mlflow_auth", "prefect")
DEBIAN_POSTGRES = Path("/usr/lib/postgresql")  # one folder a version; its programs are not on PATH
POSTGRES_ACCOUNT = "postgres"  # PostgreSQL refuses to run as root
AUTH_SETTINGS = Path(__file__).parents[1] / "infra/mlflow/basic_auth.ini"
MIN_PASSWORD = 12  # what MLflow asks of a password


class Services(NamedTuple):
    """Where the services are. `environment` is what a client needs; it holds the password."""

    mlflow: str
    prefect: str
    postgres: str | None  # None: SQLite stands in
    environment: dict[str, str]


@contextmanager
def services(folder: Path, user: str, password: str | None, use_postgres: bool = True) -> Iterator[Services]:
    """Within the block, MLflow and Prefect answer, on PostgreSQL where it is installed and on SQLite elsewhere.

    Args:
        folder: keeps data and logs. As root, PostgreSQL's own account must be able to enter it.
        user, password: MLflow's administrator, and Prefect's only user. MLflow keeps the password that its store was
            made with. None: MLflow and Prefect ask nobody for one.

    Raises:
        UnigrecError: a service does not start; names its log.
    """
    _check_password(password)
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        programs = postgres_programs() if use_postgres else None
        database_password = password or secrets.token_urlsafe()  # PostgreSQL's is set anew with each start
        port = stack.enter_context(_postgres(programs, folder, database_password)) if programs else None
        store = _Store(folder, port, database_password)
        mlflow = stack.enter_context(_mlflow(store, user, password))
        prefect = stack.enter_context(_prefect(store, user, password))
        environment = {URI_VARIABLE: mlflow, "PREFECT_API_URL": f"{prefect}/api"}
        if password is not None:
            environment |= {
                USER_VARIABLE: user,
                PASSWORD_VARIABLE: password,
                "PREFECT_API_AUTH_STRING": f"{user}:{password}",
            }
        yield Services(mlflow, prefect, None if port is None else f"{HOST}:{port}", environment)


class _Store(NamedTuple):
    """Where the servers keep what they know: databases of PostgreSQL at a port, or files of SQLite in the folder."""

    folder: Path
    port: int | None
    password: str

    def address(self, name: str, sqlite: str = "sqlite", postgres: str = "postgresql") -> str:
        """The address of a database, without a password: the drivers read PGPASSWORD."""
        if self.port is None:
            return f"{sqlite}:///{self.folder}/{name}.db"
        return f"{postgres}://{DATABASE_USER}@{HOST}:{self.port}/{name}"


def postgres_programs() -> Path | None:
    """The folder that holds initdb and postgres, the newest version's; None where PostgreSQL is not installed."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    versions = [path.parent for path in DEBIAN_POSTGRES.glob("*/bin/initdb")]
    return max(versions, key=lambda path: float(path.parent.name), default=None)


@contextmanager
def _postgres(programs: Path, folder: Path, password: str) -> Iterator[int]:
    """A PostgreSQL with our databases, as an account of its own where we are root. Yields its port."""
    data, port = folder / "postgres", free_port()
    account = _as_postgres_account(folder)
    _make_cluster(programs, data, password, account)
    address = ("-c", f"listen_addresses={HOST}", "-c", "unix_socket_directories=", "-p", str(port))
    command = [*account, str(programs / "postgres"), "-D", str(data), *address]
    with _running("PostgreSQL", command, folder, dict(os.environ)) as process:
        _make_databases(programs, port, password, process, folder / "postgresql.log")
        yield port


def _make_cluster(programs: Path, data: Path, password: str, account: list[str]) -> None:
    """Make PostgreSQL's folder if there is none, and set our password in it, before anybody can connect."""
    if not (data / "PG_VERSION").exists():
        data.mkdir(mode=0o700, exist_ok=True)
        if account:
            shutil.chown(data, POSTGRES_ACCOUNT)
        command = [*account, str(programs / "initdb"), "-D", str(data), "-U", DATABASE_USER]
        command += ["--encoding=UTF8", "--locale=C.UTF-8", "--auth-host=scram-sha-256", "--auth-local=peer"]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/")
        if done.returncode:
            raise UnigrecError(f"initdb could not make {data}: {done.stderr.strip()}")
    quoted = password.replace("'", "''")
    done = subprocess.run(
        [*account, str(programs / "postgres"), "--single", "-D", str(data), "postgres"],
        input=f"alter role {DATABASE_USER} password '{quoted}'\n",
        capture_output=True,
        text=True,
        cwd="/",
    )
    if done.returncode or "ERROR" in done.stderr:
        reason = done.stderr.replace(password, HIDDEN).strip()
        raise UnigrecError(f"{data}: PostgreSQL cannot be prepared (is it running already?): {reason}")


def _make_databases(programs: Path, port: int, password: str, process: subprocess.Popen, log: Path) -> None:
    """Wait until the server takes our password, and make what is missing."""
    environment = {**os.environ, "PGPASSWORD": password}
    psql = [str(programs / "psql"), "-h", HOST, "-p", str(port), "-U", DATABASE_USER, "-d", "postgres", "-Atc"]

    def ask(statement: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*psql, statement], env=environment, capture_output=True, text=True, cwd="/")

    deadline = time.monotonic() + START_SECONDS
    while (there := ask("select datname from pg_database")).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise UnigrecError(f"PostgreSQL did not start; its log is {log}")
        time.sleep(0.1)
    for name in DATABASES:
        if name not in there.stdout.split() and (made := ask(f"create database {name}")).returncode:
            raise UnigrecError(f"database {name} could not be made: {made.stderr.strip()}")


def _as_postgres_account(folder: Path) -> list[str]:
    """What a command begins with so that it runs as PostgreSQL's own account, where we are root."""
    if os.geteuid():
        return []
    account = ["setpriv", f"--reuid={POSTGRES_ACCOUNT}", f"--regid={POSTGRES_ACCOUNT}", "--clear-groups"]
    if subprocess.run([*account, "test", "-x", str(folder)], cwd="/", capture_output=True).returncode:
        raise UnigrecError(
            f"{folder}: the account {POSTGRES_ACCOUNT} is not there or cannot enter it, and PostgreSQL refuses to run "
            "as root; choose another folder with --state, or start the services as an ordinary user"
        )
    return account


@contextmanager
def _mlflow(store: _Store, user: str, password: str | None) -> Iterator[str]:
    """MLflow, with basic authentication where there is a password; artifacts go through it. Yields its address."""
    folder, own = store.folder, free_port()
    url = f"http://{HOST}:{own}"
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", HOST, "--port", str(own), "--artifacts-destination", str(folder / "artifacts")]
    environment = {
        **_without_clients(),
        "PGPASSWORD": store.password,
        "MLFLOW_BACKEND_STORE_URI": store.address("mlflow"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    if password is not None:
        settings = configparser.ConfigParser()
        settings.read(AUTH_SETTINGS, encoding="utf-8")
        settings["mlflow"]["database_uri"] = store.address("mlflow_auth")
        with (folder / "basic_auth.ini").open("w", encoding="utf-8") as stream:
            settings.write(stream)
        command += ["--app-name", "basic-auth"]
        environment |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
            "MLFLOW_AUTH_ADMIN_USERNAME": user,
            "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        }
    with _running("MLflow", command, folder, environment) as process:
        wait_until_healthy("MLflow", f"{url}/health", process, folder / "mlflow.log", START_SECONDS)
        yield url


@contextmanager
def _prefect(store: _Store, user: str, password: str | None) -> Iterator[str]:
    """Prefect's server, with basic authentication where there is a password. Yields its address."""
    folder, own = store.folder, free_port()
    url = f"http://{HOST}:{own}"
    environment = {
        **_without_clients(),
        "PGPASSWORD": store.password,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": store.address("prefect", "sqlite+aiosqlite", "postgresql+asyncpg"),
    }
    if password is not None:
        environment["PREFECT_SERVER_API_AUTH_STRING"] = f"{user}:{password}"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(own), "--no-ui"]
    with _running("Prefect", command, folder, environment) as process:
        wait_until_healthy("Prefect", f"{url}/api/health", process, folder / "prefect.log", START_SECONDS)
        yield url


@contextmanager
def worker(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Within the block, prefect.yaml's deployments are registered, and a worker in the working directory runs them.

    Args:
        folder: keeps the worker's log.
        environment: what a client needs: `Services.environment`.

    Raises:
        UnigrecError: a deployment is not accepted.
    """
    _bury_runs(environment, "the worker before this one is gone")  # as after a power cut
    settings = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING", **environment}
    clients = child_environment({**os.environ, **settings})
    registered = subprocess.run([sys.executable, "-m", "flows.deploy"], env=clients, capture_output=True, text=True)
    if registered.returncode:
        raise UnigrecError(registered.stderr.strip().removeprefix("error: "))
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    clients.pop(WEBHOOK_VARIABLE, None)  # the server has it now; no flow needs it
    try:
        with _running("worker", command, folder, clients, cwd=Path.cwd()):
            yield
    finally:
        with suppress(httpx.HTTPError):  # the server has died; the next start does it
            _bury_runs(environment, "the worker was stopped")


def _bury_runs(environment: dict[str, str], reason: str) -> None:
    """Our worker is the pool's only one: while it is not there, nobody is at work on any of its runs."""
    settings = {PREFECT_API_URL: environment["PREFECT_API_URL"]}
    if secret := environment.get("PREFECT_API_AUTH_STRING"):
        settings[PREFECT_API_AUTH_STRING] = secret
    with temporary_settings(settings), get_client(sync_client=True) as client:
        for run in runs.at_work(client, POOL):
            runs.bury(client, run, reason)


def _without_clients() -> dict[str, str]:
    """The environment without the settings of clients, which a server would take for its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PREFECT_"))}
    telemetry = {"MLFLOW_DISABLE_TELEMETRY": "true", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    return child_environment(kept) | telemetry


@contextmanager
def _running(
    name: str, command: list[str], folder: Path, environment: dict[str, str], cwd: Path | None = None
) -> Iterator[subprocess.Popen]:
    """A supervised process in `cwd` (or in `folder`), whose output goes to its log in `folder`; stopped at the end."""
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


def _told(running: Services, user: str, closed: bool, with_worker: bool) -> str:
    """Where everything is, and what another terminal needs; no password."""
    database = f"PostgreSQL at {running.postgres}" if running.postgres else "SQLite (no PostgreSQL used)"
    who = f"user {user}" if closed else "open to everybody on this machine"
    there = f"MLflow {running.mlflow}, Prefect {running.prefect}, {who}, on {database}"
    if not with_worker:
        return there
    addresses = " ".join(f"{name}={running.environment[name]}" for name in (URI_VARIABLE, "PREFECT_API_URL"))
    return f"{there}\na worker of the pool {POOL} waits for scheduled runs; for another terminal: export {addresses}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Start, tell or run, stop; the exit code is the command's, or that of errors.py."""
    parser = argparse.ArgumentParser(prog="python -m flows.services", description=__doc__, allow_abbrev=False)
    parser.add_argument("--state", type=Path, default=STATE, help="folder for data and logs (default: %(default)s)")
    parser.add_argument("--sqlite", action="store_true", help="SQLite, even where PostgreSQL is installed")
    parser.add_argument("--worker", action="store_true", help="register prefect.yaml, and run what it schedules here")
    parser.add_argument("--open", action="store_true", help=f"no passwords, unless {PASSWORD_VARIABLE} is set")
    parser.add_argument("command", nargs="*", help="run it beside the services, and stop them when it has ended")
    asked = parser.parse_args(arguments)
    user, password = os.environ.get(USER_VARIABLE, "admin"), os.environ.get(PASSWORD_VARIABLE, "")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's stop, as Ctrl-C
    try:
        with ExitStack() as stack:
            secret = None if asked.open and not password else password
            running = stack.enter_context(services(asked.state, user, secret, not asked.sqlite))
            if asked.worker:
                stack.enter_context(worker(asked.state.absolute(), running.environment))
            print(_told(running, user, secret is not None, asked.worker), flush=True)
            if asked.command:
                return subprocess.run(
                    asked.command, env=child_environment({**os.environ, **running.environment})
                ).returncode
            signal.pause()
    except UnigrecError as error:
        print(f"error: {masked(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
