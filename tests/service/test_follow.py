"""A version that does not load is tried again; the model that answers goes on; a challenger never ends the service."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from unigrec.base.errors import UnigrecError
from unigrec.config.schema import RegisterParams
from unigrec.service import follow
from unigrec.service.follow import Followed, Follower
from unigrec.service.watch import Event, Version

REGISTRY = RegisterParams(tracking_uri="sqlite:///none.db", experiment="e", model_name="m")


class Fleet:
    """Loads every version that is not broken. broken: folder -> how often it does not load."""

    def __init__(self, broken: dict[str, int]):
        self.broken, self.current, self.problem, self.tried, self.removed = broken, None, None, [], []

    async def change(self, version: Version) -> None:
        self.tried.append(version.label)
        if self.broken.get(version.folder.name, 0) > 0:
            self.broken[version.folder.name] -= 1
            self.problem = f"{version.label} does not load"
            raise UnigrecError(self.problem)
        self.problem = None
        self.current = type("Generation", (), {"version": version})

    def report(self, problem: str | None) -> None:
        self.problem = problem

    async def end(self) -> None:
        self.current = None

    def remove(self, version: Version) -> None:
        self.removed.append(version.label)


def event(label: str, folder: str = "", why: str | None = None) -> Event:
    return Event(model="champion", version=Version(label=label, folder=Path(folder or label), why=why))


def follower(one: Followed, tmp_path: Path, seconds: float = 1.0) -> Follower:
    return Follower([one], REGISTRY, tmp_path, seconds)


@contextlib.asynccontextmanager
async def running(one: Followed, tmp_path: Path, seconds: float = 1.0):
    task = asyncio.create_task(follower(one, tmp_path, seconds).run())
    yield task
    task.cancel()
    await asyncio.wait({task})


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_challenger_that_does_not_load_is_tried_again_after_longer_pauses(tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "RETRY_PAUSES", (0.01, 0.02))
    (tmp_path / "bundle").mkdir()

    async def case():
        fleet = Fleet({"bundle": 3})
        one = Followed(str(tmp_path / "bundle"), fleet, is_needed=False)
        async with running(one, tmp_path) as task:
            await until(lambda: fleet.current is not None)
            assert not task.done()
        assert fleet.tried == ["bundle"] * 4
        assert (fleet.problem, one.failures) == (None, 0)

    asyncio.run(case())


def test_a_model_that_is_needed_ends_the_service_if_it_does_not_load(tmp_path):
    (tmp_path / "bundle").mkdir()

    async def case():
        with pytest.raises(UnigrecError, match="bundle does not load"):
            await follower(Followed(str(tmp_path / "bundle"), Fleet({"bundle": 1})), tmp_path).run()

    asyncio.run(case())


def test_a_failed_version_is_asked_for_again_until_the_alias_moves(tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "RETRY_PAUSES", (0.01, 30.0))

    async def case():
        fleet = Fleet({"two": 1, "again": 1})
        one = Followed("champion", fleet)
        found = follower(one, tmp_path)
        asked: list[str] = []
        monkeypatch.setattr(found, "_again", lambda followed: asked.append(followed.label))
        await found._meet(one, event("1"))
        await found._meet(one, event("2", "two"))
        assert (fleet.current.version.label, fleet.problem) == ("1", "2 does not load")
        await found._meet(one, event("2", "two", "better"))  # a promotion says why: nothing new to load
        await found._meet(one, Event(model="champion", problem="the registry does not answer"))
        await found._meet(one, Event(model="champion"))
        assert (fleet.tried, fleet.problem) == (["1", "2"], "2 does not load")
        await until(lambda: asked == ["2"])
        await found._meet(one, event("2", "again"))  # fetched again, and broken again
        assert (fleet.tried, one.failures) == (["1", "2", "2"], 2)
        await found._meet(one, event("3"))
        assert (fleet.current.version.label, one.failures, one.retry.cancelled()) == ("3", 0, True)

    asyncio.run(case())


def test_an_unwanted_version_is_removed_and_what_answered_ends(tmp_path):
    async def case():
        fleet = Fleet({})
        one = Followed("challenger", fleet, is_needed=False, wants=lambda version: version.label != "1")
        found = follower(one, tmp_path)
        await found._meet(one, event("2"))
        await found._meet(one, event("1"))
        assert (fleet.tried, fleet.removed, fleet.current) == (["2"], ["1"], None)
        await found._meet(one, event("1", why="promoted"))
        assert fleet.removed == ["1"]

    asyncio.run(case())


def test_a_registry_that_could_not_be_watched_for_a_moment_is_watched_again(tmp_path, monkeypatch):
    async def case():
        words = [event("1").model_dump_json().encode() + b"\n"]

        async def lines():
            for line in words:
                yield line
            await asyncio.Event().wait()

        calls: list[str] = []

        async def no_room_at_first(name: str):
            calls.append(name)
            if len(calls) == 1:
                raise UnigrecError("no process could be started")
            stdin = SimpleNamespace(write=lambda line: None)
            return SimpleNamespace(stdin=stdin, stdout=lines(), returncode=0)

        monkeypatch.setattr(follow, "new_process", no_room_at_first)
        fleet = Fleet({})
        async with running(Followed("champion", fleet), tmp_path, seconds=0.01) as task:
            await until(lambda: fleet.tried == ["1"])
            assert not task.done()
        assert len(calls) == 2

    asyncio.run(case())
