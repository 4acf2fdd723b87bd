"""Two hosts on this machine: network namespaces that a pair of virtual Ethernet devices connects. They share all files.

It needs root and `ip` of iproute2; elsewhere the tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.project import ROOT

ADDRESSES = ("10.77.0.1", "10.77.0.2")


def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


class TwoHosts:
    """The namespaces, and the stages that were started in them."""

    def __init__(self) -> None:
        name = uuid.uuid4().hex[:6]  # a device's name has at most 15 characters
        self.spaces = [f"unigrec-{name}-{number}" for number in (0, 1)]
        self.devices = [f"u{name}{number}" for number in (0, 1)]
        self.started: list[subprocess.Popen[str]] = []

    def connect(self) -> str | None:
        """Make the hosts and the network between them. Returns why that is not possible here."""
        if os.geteuid() or shutil.which("ip") is None:
            return "needs root and the command ip of iproute2"
        steps = [("netns", "add", space) for space in self.spaces]
        (a, b), (space_a, space_b) = self.devices, self.spaces
        steps.append(("link", "add", a, "netns", space_a, "type", "veth", "peer", "name", b, "netns", space_b))
        for space, device, address in zip(self.spaces, self.devices, ADDRESSES, strict=True):
            steps.append(("-n", space, "address", "add", f"{address}/24", "dev", device))
            steps += [("-n", space, "link", "set", name, "up") for name in ("lo", device)]
        for step in steps:
            done = ip(*step)
            if done.returncode:
                return f"ip {' '.join(step)}: {done.stderr.strip()}"
        return None

    def cut(self) -> None:
        """Take the network between the hosts down. No packet says so."""
        ip("-n", self.spaces[1], "link", "set", self.devices[1], "down")

    def mend(self) -> None:
        """Bring the network between the hosts up again."""
        ip("-n", self.spaces[1], "link", "set", self.devices[1], "up")

    def start(
        self, host: int, folder: Path, stage: str, *options: str, path: Sequence[Path] = ()
    ) -> subprocess.Popen[str]:
        """Start a stage on a host. path: folders before the source on the import path."""
        search = os.pathsep.join(str(one) for one in (*path, ROOT / "src"))
        command = [sys.executable, "-m", "unigrec.cli", "stage", stage, *options]
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.spaces[host], *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": search},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def start_both(self, folder: Path, stage: str, *options: str, path: Sequence[Path] = ()) -> list:
        """Start a stage on both hosts, which meet at host 0."""
        together = ["--hosts", "2", "--rendezvous", f"{ADDRESSES[0]}:29400", *options]
        return [self.start(host, folder, stage, *together, "--host-rank", str(host), path=path) for host in (0, 1)]

    def processes(self, host: int) -> list[int]:
        """Ids of the live processes of a host."""
        return [int(word) for word in ip("netns", "pids", self.spaces[host]).stdout.split()]

    def kill(self, host: int) -> None:
        """Kill all processes of a host at once, as its power would."""
        for process in self.processes(host):
            os.kill(process, signal.SIGKILL)

    def remove(self) -> None:
        for host, space in enumerate(self.spaces):
            self.kill(host)
            ip("netns", "delete", space)
        for process in self.started:
            process.communicate()


@contextmanager
def two_hosts() -> Iterator[TwoHosts]:
    """Two connected hosts until the block ends. Skips the test where they cannot be made."""
    hosts = TwoHosts()
    try:
        why = hosts.connect()
        if why is not None:
            pytest.skip(f"two hosts: {why}")
        yield hosts
    finally:
        if os.geteuid() == 0 and shutil.which("ip"):
            hosts.remove()
