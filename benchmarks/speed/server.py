"""Servers that a benchmark starts: when they are ready, what their processes use, and their end."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.speed.harness import ROOT
from benchmarks.speed.project import path_of_tools

READY_SECONDS = 600.0
END_SECONDS = 30.0


class Server:
    """A command that listens at a port of 127.0.0.1. A context manager ends it, and all that it started.

    Args:
        command: its last arguments name the port. health: a path that answers 200 when the server is ready.

    Attributes:
        ready: wall seconds from the start to the first 200. ready_cpu: CPU seconds of all its processes until then.

    Raises:
        RuntimeError: the command ended, or is not ready after ten minutes.
    """

    def __init__(self, command: list[str], health: str, folder: Path, log: Path, **environment: str):
        self.port = free_port()
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        given = {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "PATH": path_of_tools(), **environment}
        self.log = log
        started = time.monotonic()
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                cwd=folder,
                env=os.environ | given,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        while not self._answers(health):
            if self.process.poll() is not None or time.monotonic() > started + READY_SECONDS:
                self.end()
                raise RuntimeError(f"{' '.join(command)} is not ready: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        self.ready, self.ready_cpu = time.monotonic() - started, self.cpu()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Send SIGTERM; after half a minute, kill."""
        processes = self.processes()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for process in processes:  # workers of a server that does not end them
            if Path(f"/proc/{process}").exists():
                os.kill(process, signal.SIGKILL)

    def processes(self) -> list[int]:
        """Its process, and those below it."""
        parents = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended
                continue
        found = [self.process.pid]
        for parent in found:
            found += [process for process, above in parents.items() if above == parent]
        return found

    def cpu(self) -> float:
        """CPU seconds of its processes, and of those of them that have ended."""
        ticks = 0
        for process in self.processes():
            try:
                fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Bytes of its processes; a page that several of them share counts once (PSS)."""
        total = 0
        for process in self.processes():
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        return total

    def _answers(self, path: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def service(model: str, workers: int, folder: Path, log: Path, *options: str, **environment: str) -> Server:
    """`unigrec serve` in a project's folder. options: further ones of the command."""
    command = [sys.executable, "-m", "unigrec.cli", "serve", "--model", model, "--workers", str(workers), *options]
    return Server(command, "/readyz", folder, log, **environment)


def mlflow_server(version: str, folder: Path, log: Path) -> Server:
    """MLflow's server of a registered version, at its defaults."""
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--model-uri", version]
    return Server(command, "/ping", folder, log, MLFLOW_TRACKING_URI="sqlite:///mlflow.db")
