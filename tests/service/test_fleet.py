"""A process that dies is started again, unless another model has come meanwhile; no process is an error in words."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from unigrec.base.errors import UnigrecError
from unigrec.service import fleet as module
from unigrec.service.fleet import Fleet, Generation, new_process
from unigrec.service.metrics import Metrics
from unigrec.service.watch import Version


class Process:
    """Lives until it is killed."""

    def __init__(self) -> None:
        self.returncode: int | None = None
        self.has_ended = asyncio.Event()

    async def wait(self) -> int | None:
        await self.has_ended.wait()
        return self.returncode

    def kill(self) -> None:
        self.returncode = -9
        self.has_ended.set()


class Started(Fleet):
    """A fleet whose processes are not real. The second process of version 1 comes when `release` is set."""

    def __init__(self, scratch: Path, fails: bool):
        batcher = SimpleNamespace(variant="champion", on_lost=None)
        super().__init__(scratch, 1, batcher, Metrics())
        self.release, self.fails, self.begun = asyncio.Event(), fails, []

    async def _start(self, version: Version) -> Generation:
        self.begun.append(version.label)
        if self.begun == ["1", "1"]:
            await self.release.wait()
            if self.fails:
                raise UnigrecError("its files are gone")
        facts = {"bundle": version.label, "data": {"version": "d"}}
        return Generation(len(self.begun), version, Process(), facts)


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_that_is_started_again_does_not_take_the_place_of_its_successor(tmp_path, monkeypatch, fails):
    monkeypatch.setattr(module, "RESTART_PAUSES", (0.0,))

    async def case():
        fleet = Started(tmp_path, fails)
        await fleet.change(Version(label="1", folder=tmp_path / "one"))
        fleet.current.process.kill()
        await until(lambda: fleet.begun == ["1", "1"])
        await fleet.change(Version(label="2", folder=tmp_path / "two"))
        fleet.release.set()
        await asyncio.sleep(0.05)
        assert (fleet.current.version.label, fleet.begun, fleet.problem) == ("2", ["1", "1", "2"], None)
        await fleet.close()

    asyncio.run(case())


def test_a_model_whose_process_died_is_started_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RESTART_PAUSES", (0.0,))

    async def case():
        fleet = Started(tmp_path, fails=False)
        await fleet.change(Version(label="1", folder=tmp_path / "one"))
        fleet.release.set()
        first = fleet.current
        first.process.kill()
        await until(lambda: fleet.current is not first)
        assert fleet.current.version.label == "1"
        await fleet.close()

    asyncio.run(case())


@pytest.mark.parametrize(
    "error", [BlockingIOError(11, "Resource temporarily unavailable"), RuntimeError("can't start new thread")]
)
def test_a_system_without_room_for_a_process_is_an_error_in_words(monkeypatch, error):
    async def no_room(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(asyncio, "create_subprocess_exec", no_room)
    with pytest.raises(UnigrecError, match=r"no process of some.module could be started: .*(unavailable|new thread)"):
        asyncio.run(new_process("some.module"))
