"""Several hosts that run the ranks of one stage: they meet at an address, compare what they run, and watch each other.

Host 0 keeps a store of torch (TCPStore) at the address. An operation on it blocks for as long as the network is down,
so a watcher of its own ends a host that no longer hears the others.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unigrec.base.errors import UnigrecError

if TYPE_CHECKING:
    from torch.distributed import TCPStore

BEAT_SECONDS = 1.0  # between two signs of life of a host
LOST_SECONDS = 30.0  # a host without a sign of life for this long counts as lost
LINGER_SECONDS = 10.0  # time that host 0 keeps the store after a failure, so that the others can read the reason
POLL_SECONDS = 0.1
RETRY_SECONDS = 1.0  # between two attempts to reach host 0
EXIT_LOST = 128 + 9  # as of a stage that was killed: retries recognise it
GO_ON = "The same commands on all hosts go on from the last checkpoint"
_ADDRESS_OF_INTERFACE = 0x8915  # SIOCGIFADDR of Linux


class HostsError(UnigrecError):
    """The hosts do not come together, or one of them failed."""

    def __init__(self, message: str, exit_code: int = UnigrecError.exit_code):
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Hosts:
    """This host among those that run one stage.

    Attributes:
        count: number of hosts. rank: number of this one, from 0.
        address, port: of host 0, where all meet.
        join_seconds: time that a host waits for the others.
    """

    count: int
    rank: int
    address: str
    port: int
    join_seconds: float

    @property
    def rendezvous(self) -> str:
        """ADDRESS:PORT."""
        return f"{self.address}:{self.port}"


def read_hosts(count: int, rank: int | None, rendezvous: str | None, join_seconds: float) -> Hosts | None:
    """The options of the command line as a value; None for one host.

    Raises:
        UnigrecError: an option is missing or is out of range.
    """
    if count == 1 and not rank and rendezvous is None:
        return None
    if count < 2:
        raise UnigrecError(
            f"--hosts is {count}, but --host-rank or --rendezvous is set: give the number of hosts, 2 up"
        )
    if rank is None or not 0 <= rank < count:
        raise UnigrecError(
            f"--host-rank is {rank}: give each of the {count} hosts a number of its own, 0 to {count - 1}"
        )
    address, _, port = (rendezvous or "").rpartition(":")
    if not address or not port.isdigit() or not 0 < int(port) < 65536:
        raise UnigrecError(f"--rendezvous is {rendezvous}: give ADDRESS:PORT of host 0, as 10.0.0.1:29400")
    return Hosts(count, rank, address.strip("[]"), int(port), join_seconds)


@dataclass
class Meeting:
    """The hosts that have come together. The watcher ends this process when it finds that one is lost or has failed.

    Attributes:
        names: of the hosts, by rank. local_address: of this host, in the network of the hosts.
        run: a name of this start of the stage, the same on all hosts.
    """

    hosts: Hosts
    names: list[str]
    local_address: str
    run: str
    store: TCPStore
    end: Callable[[HostsError], None]  # ends the process
    _finding: HostsError | None = None
    _stopped: threading.Event = field(default_factory=threading.Event)

    def start_watching(self) -> None:
        """Send signs of life, and look for those of the others and for their failures."""
        self._heard = {rank: time.monotonic() for rank in range(self.hosts.count) if rank != self.hosts.rank}
        self._answered = time.monotonic()  # the store
        threading.Thread(target=self._beat, daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()

    def _beat(self) -> None:
        hosts, seen = self.hosts, dict.fromkeys(self._heard, b"")
        number = 0
        with contextlib.suppress(Exception):  # a broken connection: silence follows, which the other thread finds
            store = _connect(hosts)
            while not self._stopped.wait(BEAT_SECONDS):
                number += 1
                store.set(f"beat/{hosts.rank}", str(number))
                for rank in seen:
                    beat = _value(store, f"beat/{rank}") or b""
                    if beat != seen[rank]:
                        seen[rank], self._heard[rank] = beat, time.monotonic()
                    ended = _value(store, f"ended/{rank}")
                    if ended:
                        words = json.loads(ended)
                        reason = f"host {rank} ({self.names[rank]}) failed: {words['message']}"
                        self._finding = self._finding or HostsError(reason, words["exit_code"])
                        store.set(f"read/{hosts.rank}", "1")
                self._answered = time.monotonic()

    def _watch(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            self._finding = self._finding or self._silence()
            if self._finding:
                time.sleep(2 * POLL_SECONDS)  # for the other thread, which may be saying that it has read the reason
                if not self._stopped.is_set():
                    self.end(self._finding)
                return

    def _silence(self) -> HostsError | None:
        now = time.monotonic()
        store_silent = self.hosts.rank != 0 and now - self._answered > LOST_SECONDS
        lost = [0] if store_silent else [rank for rank, at in self._heard.items() if now - at > LOST_SECONDS]
        if not lost:
            return None
        who = ", ".join(f"host {rank} ({self.names[rank]})" for rank in lost)
        return HostsError(
            f"no sign of life of {who} for {LOST_SECONDS:.0f} s: it was killed, or the network between the hosts is "
            f"down. {GO_ON}",
            EXIT_LOST,
        )

    def stop_watching(self) -> None:
        """All is done, or this host failed itself."""
        self._stopped.set()

    def await_reason(self) -> None:
        """Give the watcher time to find out why ranks here lost their peers: it then ends this process."""
        time.sleep(LOST_SECONDS + 5 * BEAT_SECONDS)

    def tell(self, error: UnigrecError) -> None:
        """Tell the other hosts why this one ends. Host 0 waits until they have read it, at most `LINGER_SECONDS`."""
        self.stop_watching()
        telling = threading.Thread(target=self._tell, args=(error,), daemon=True)  # it blocks if the network is down
        telling.start()
        telling.join(LINGER_SECONDS)

    def _tell(self, error: UnigrecError) -> None:
        with contextlib.suppress(Exception):  # the store may be gone
            words = {"message": str(error), "exit_code": error.exit_code}
            self.store.set(f"ended/{self.hosts.rank}", json.dumps(words))
            readers = [f"read/{rank}" for rank in range(1, self.hosts.count)]
            while self.hosts.rank == 0 and not self.store.check(readers):
                time.sleep(POLL_SECONDS)


@contextmanager
def meeting(hosts: Hosts, inputs: dict[str, str], shared: Path, end: Callable[[HostsError], None]) -> Iterator[Meeting]:
    """Wait until all hosts are there and run the same, and watch them until the block ends.

    Args:
        inputs: hashes of what must be equal on all hosts, by name.
        shared: folder that all hosts must see, as rank 0 writes into it what all ranks read.
        end: ends this process with an error, as the hosts' watcher may find one at any time.

    Raises:
        HostsError: a host did not come in time or runs something else, the address is wrong, the port is taken.
    """
    import torch.distributed  # noqa: F401  # this takes seconds: before the clock starts

    deadline = time.monotonic() + hosts.join_seconds
    store, local_address, name = _register(hosts, deadline)
    # Equal on all hosts, whatever the order in which they come: the names, and host 0's token as the run's.
    token = uuid.uuid4().hex
    mark = shared / f".hosts-{token}"
    if hosts.rank == 0:
        shared.mkdir(parents=True, exist_ok=True)
        mark.touch()
    try:
        words = {"name": name, "token": token, "inputs": {"--hosts": str(hosts.count), **inputs}}
        store.set(f"inputs/{hosts.rank}", json.dumps(words))
        everyone = _compare(hosts, store, deadline, shared)
    finally:
        mark.unlink(missing_ok=True)
    names = [words["name"] for words in everyone]
    met = Meeting(hosts, names, local_address, everyone[0]["token"], store, end)
    met.start_watching()
    try:
        yield met
    finally:
        met.stop_watching()


def _register(hosts: Hosts, deadline: float) -> tuple[TCPStore, str, str]:
    """Open the store and take this host's number in it: the store, this host's address, and its name.

    Right after a failure, a host may find the store of the run that failed. It then tries again until that has ended.
    """
    taken_until = min(deadline, time.monotonic() + 1.5 * LOST_SECONDS)
    while True:
        local_address = _local_address(hosts, deadline)
        name = f"{socket.gethostname()}, {local_address}"
        mine = json.dumps([name, os.getpid(), uuid.uuid4().hex])
        try:
            store = _connect(hosts, serve=hosts.rank == 0)
            holder = store.compare_set(f"host/{hosts.rank}", "", mine).decode()
        except RuntimeError as error:  # the store has just ended, or something else listens there
            if time.monotonic() > deadline:
                raise HostsError(f"what listens at {hosts.rendezvous} is not host 0 of a stage: {error}") from error
        else:
            if holder == mine:
                return store, local_address, name
            if time.monotonic() > taken_until:
                raise HostsError(
                    f"host {hosts.rank} is at {hosts.rendezvous} already ({json.loads(holder)[0]}): give each host a "
                    "--host-rank of its own"
                )
        time.sleep(RETRY_SECONDS)


def _local_address(hosts: Hosts, deadline: float) -> str:
    """This host's address in the network of the hosts. Returns once the store's address can be used."""
    while True:
        try:
            family, *_, address = socket.getaddrinfo(hosts.address, hosts.port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                if hosts.rank == 0:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(address)
                    return str(address[0])
                probe.settimeout(min(5.0, max(deadline - time.monotonic(), 0.1)))
                probe.connect(address)
                return str(probe.getsockname()[0])
        except OSError as error:
            if time.monotonic() < deadline and not _is_final(error, hosts):
                time.sleep(RETRY_SECONDS)
                continue
            raise HostsError(_no_way(error, hosts)) from error


def _is_final(error: OSError, hosts: Hosts) -> bool:
    """Whether waiting does not help. A name may come to be known: a cluster announces it when the host is there."""
    return hosts.rank == 0 and not isinstance(error, socket.gaierror)


def _no_way(error: OSError, hosts: Hosts) -> str:
    why, where = error.strerror or str(error), hosts.rendezvous
    if isinstance(error, socket.gaierror):
        return f"--rendezvous: {hosts.address} is no known host ({why})"
    if hosts.rank:
        return (
            f"waited {hosts.join_seconds:.0f} s for host 0 at {where} ({why}): start the same stage there with "
            "--host-rank 0, or correct --rendezvous; a firewall must let the hosts reach each other"
        )
    return (
        f"host 0 cannot listen at {where} ({why}): --rendezvous must name an address of host 0 itself and a port that "
        "no other program uses"
    )


def _connect(hosts: Hosts, serve: bool = False) -> TCPStore:
    """A connection to the store; with `serve`, this process keeps the store."""
    from torch.distributed import TCPStore

    limit = timedelta(seconds=LOST_SECONDS)
    return TCPStore(
        hosts.address, hosts.port, is_master=serve, wait_for_workers=False, multi_tenant=True, timeout=limit
    )


def _value(store: TCPStore, key: str) -> bytes | None:
    """The value of a key, or None. `get` alone would wait for it."""
    return store.get(key) if store.check([key]) else None


def _compare(hosts: Hosts, store: TCPStore, deadline: float, shared: Path) -> list[dict[str, Any]]:
    """Wait for all hosts and compare their inputs with those of host 0. Returns what each host says, by rank."""
    first = _await_all(hosts, store, "inputs", [0], deadline)[0]
    own = json.loads(store.get(f"inputs/{hosts.rank}"))
    here, there = own["inputs"], first["inputs"]
    if here["--hosts"] != there["--hosts"]:
        raise HostsError(f"--hosts is {here['--hosts']} on host {hosts.rank}, but {there['--hosts']} on host 0")
    differing = [name for name in {**there, **here} if here.get(name) != there.get(name)]
    folder = "" if (shared / f".hosts-{first['token']}").exists() else str(shared)
    store.set(f"verdict/{hosts.rank}", json.dumps({"differing": differing, "folder": folder}))
    others = list(range(hosts.count))
    verdicts = _await_all(hosts, store, "verdict", others, deadline)
    everyone = _await_all(hosts, store, "inputs", others, deadline)
    reasons = []
    for rank, (verdict, words) in enumerate(zip(verdicts, everyone, strict=True)):
        pair = f"host {rank} ({words['name']})", f"host 0 ({everyone[0]['name']})"
        if verdict["differing"]:
            reasons.append(f"{pair[0]} differs from {pair[1]} in {', '.join(verdict['differing'])}")
        if verdict["folder"]:
            reasons.append(f"{pair[0]} does not see what {pair[1]} writes into {verdict['folder']}")
    store.set(f"compared/{hosts.rank}", "1")
    if reasons:
        if hosts.rank == 0:  # the store must stay until the others have read the verdicts
            with contextlib.suppress(HostsError):
                limit = time.monotonic() + LINGER_SECONDS
                _await_all(hosts, store, "compared", others, limit)
        raise HostsError("; ".join(reasons) + ": all hosts run the same project, in a folder that all of them see")
    return everyone


def _await_all(hosts: Hosts, store: TCPStore, what: str, ranks: list[int], deadline: float) -> list[Any]:
    """The values of `what` of the hosts, once they are all there. Raises HostsError that names who is missing."""
    keys = {rank: f"{what}/{rank}" for rank in ranks}
    try:
        while not store.check(list(keys.values())):
            if time.monotonic() > deadline:
                missing = [str(rank) for rank, key in keys.items() if not store.check([key])]
                raise HostsError(
                    f"waited {hosts.join_seconds:.0f} s at {hosts.rendezvous} for host {', '.join(missing)} of "
                    f"{hosts.count}: start the same stage there, with its --host-rank, or wait longer with "
                    "--join-seconds"
                )
            time.sleep(POLL_SECONDS)
        return [json.loads(store.get(key)) for key in keys.values()]
    except RuntimeError as error:
        raise HostsError(
            f"host 0 at {hosts.rendezvous} ended before all hosts were there; its reason is there"
        ) from error


def interface_of(address: str) -> str | None:
    """Name of the network interface that has this IPv4 address; None if none has it (Linux only)."""
    for _, name in socket.if_nameindex():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            request = struct.pack("256s", name.encode()[:15])
            answer = fcntl.ioctl(probe.fileno(), _ADDRESS_OF_INTERFACE, request)
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
