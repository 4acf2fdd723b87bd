"""Hosts that meet: what keeps them apart is named in time, and a host that ends takes the others along."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unigrec.base import hosts as hosts_module
from unigrec.base.errors import EXIT_INVALID_DATA, InvalidDataError, UnigrecError
from unigrec.base.hosts import EXIT_LOST, Hosts, HostsError, Meeting, interface_of, meeting, read_hosts

INPUTS = {"params joint": "1", "src/unigrec/core/losses.py": "2"}


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    for name, seconds in {
        "BEAT_SECONDS": 0.05,
        "LOST_SECONDS": 1.0,
        "POLL_SECONDS": 0.02,
        "RETRY_SECONDS": 0.05,
    }.items():
        monkeypatch.setattr(hosts_module, name, seconds)


def host(rank: int, port: int, count: int = 2, join_seconds: float = 5.0, address: str = "127.0.0.1") -> Hosts:
    return Hosts(count, rank, address, port, join_seconds)


def meet(
    *those: Hosts,
    folders: list[Path],
    inputs: list[dict[str, str]] | None = None,
    work: Callable[[Meeting], Any] = lambda met: met,
    end: Callable[[HostsError], None] = lambda error: None,
) -> list[Any]:
    """Let hosts meet, each in a thread, and do their work. Returns what each work returned, or its error."""
    found: list[Any] = [None] * len(those)

    def run(number: int) -> None:
        try:
            own = inputs[number] if inputs else INPUTS
            with meeting(those[number], own, folders[min(number, len(folders) - 1)], end=end) as met:
                found[number] = work(met)
        except UnigrecError as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(those))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((1, 1, None, 5.0), r"--hosts is 1, but --host-rank or --rendezvous is set"),
        ((1, None, "a:1", 5.0), r"--hosts is 1, but"),
        ((2, None, "a:1", 5.0), r"--host-rank is None: give each of the 2 hosts a number of its own, 0 to 1"),
        ((2, 2, "a:1", 5.0), r"--host-rank is 2"),
        ((2, 0, None, 5.0), r"--rendezvous is None: give ADDRESS:PORT of host 0"),
        ((2, 0, "10.0.0.1", 5.0), r"--rendezvous is 10\.0\.0\.1: give"),
        ((2, 0, "10.0.0.1:http", 5.0), r"--rendezvous is"),
        ((2, 0, "10.0.0.1:70000", 5.0), r"--rendezvous is"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(options, message):
    with pytest.raises(UnigrecError, match=message):
        read_hosts(*options)


def test_options_become_hosts():
    assert read_hosts(1, None, None, 5.0) is None
    assert read_hosts(1, 0, None, 5.0) is None  # as in an environment for any number of hosts
    assert read_hosts(2, 1, "[::1]:29400", 5.0) == Hosts(2, 1, "::1", 29400, 5.0)


def test_hosts_meet_under_one_name_and_leave_nothing_in_the_folder(port, tmp_path):
    first, second = meet(host(0, port), host(1, port), folders=[tmp_path])
    assert (first.run, first.names) == (second.run, second.names)
    assert (len(first.names), first.local_address) == (2, "127.0.0.1")
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_does_not_come_is_named(port, tmp_path):
    (error,) = meet(host(0, port, count=3, join_seconds=0.3), folders=[tmp_path])
    assert str(error).startswith(f"waited 0 s at 127.0.0.1:{port} for host 1, 2 of 3: start the same stage there")
    assert error.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_without_host_0_the_others_say_where_they_looked(port, tmp_path):
    (error,) = meet(host(1, port, join_seconds=0.3), folders=[tmp_path])
    assert f"for host 0 at 127.0.0.1:{port} (Connection refused)" in str(error)


def test_a_name_that_nobody_knows(port, tmp_path):
    (error,) = meet(host(1, port, join_seconds=0.3, address="nowhere.invalid"), folders=[tmp_path])
    assert str(error).startswith("--rendezvous: nowhere.invalid is no known host (")


def test_a_port_that_is_taken_and_an_address_of_another_machine_are_found_at_once(port, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        (taken,) = meet(host(0, port), folders=[tmp_path])
    (foreign,) = meet(host(0, port, address="192.0.2.1"), folders=[tmp_path])
    assert f"host 0 cannot listen at 127.0.0.1:{port} (Address already in use)" in str(taken)
    assert f"host 0 cannot listen at 192.0.2.1:{port} (Cannot assign requested address)" in str(foreign)


def test_every_host_says_which_one_runs_something_else_and_what(port, tmp_path):
    other = [INPUTS, INPUTS | {"params joint": "other"}]
    for error in meet(host(0, port), host(1, port), folders=[tmp_path], inputs=other):
        assert isinstance(error, HostsError)
        assert "host 1 (" in str(error)
        assert "differs from host 0 (" in str(error)
        assert ") in params joint: all hosts run the same project" in str(error)


def test_a_folder_that_is_not_shared_is_found_before_the_training(port, tmp_path):
    for error in meet(host(0, port), host(1, port), folders=[tmp_path / "a", tmp_path / "b"]):
        assert "host 1 (" in str(error)
        assert f"writes into {tmp_path / 'b'}: all hosts" in str(error)


def test_a_number_that_another_host_has_is_refused(port, tmp_path):
    first, *rest = meet(host(0, port), host(1, port), host(1, port, join_seconds=0.5), folders=[tmp_path])
    refused = [one for one in rest if isinstance(one, HostsError)]
    assert isinstance(first, Meeting)
    assert len(refused) == 1
    assert str(refused[0]).startswith(f"host 1 is at 127.0.0.1:{port} already (")


def test_hosts_that_count_differently_say_so(port, tmp_path):
    found = meet(host(0, port, join_seconds=0.5), host(1, port, count=3), folders=[tmp_path])
    assert str(found[1]) == "--hosts is 3 on host 1, but 2 on host 0"
    assert isinstance(found[0], HostsError)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_host_that_is_silent_is_lost(port, tmp_path, victim):
    ended: queue.Queue[HostsError] = queue.Queue()

    def work(met: Meeting) -> None:
        if met.hosts.rank == victim:
            met.stop_watching()  # it sends no signs of life any more
        time.sleep(1.6)

    meet(host(0, port), host(1, port), folders=[tmp_path], work=work, end=ended.put)
    error = ended.get_nowait()
    assert f"no sign of life of host {victim} (" in str(error)
    assert error.exit_code == EXIT_LOST
    assert ended.empty()


@pytest.mark.parametrize("victim", [0, 1])
def test_the_others_repeat_why_a_host_failed_and_end_with_its_exit_code(port, tmp_path, victim):
    ended: queue.Queue[HostsError] = queue.Queue()

    def work(met: Meeting) -> None:
        if met.hosts.rank == victim:
            met.tell(InvalidDataError("the loss is not finite"))
        else:
            time.sleep(0.5)

    meet(host(0, port), host(1, port), folders=[tmp_path], work=work, end=ended.put)
    error = ended.get_nowait()
    assert str(error).startswith(f"host {victim} (")
    assert str(error).endswith(") failed: the loss is not finite")
    assert error.exit_code == EXIT_INVALID_DATA
    assert ended.empty()


def test_the_interface_of_an_address():
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None
