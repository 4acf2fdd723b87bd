"""Follows what fleets are to serve: a bundle's folder, or a version or alias of the registry, from one to the next.

A version that does not load is fetched and tried again, after longer and longer pauses, until the alias moves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from unigrec.base.errors import UnigrecError
from unigrec.service.fleet import new_process
from unigrec.service.watch import Event, Version, Watched

if TYPE_CHECKING:
    from unigrec.config.schema import RegisterParams
    from unigrec.service.fleet import Fleet

RETRY_PAUSES = (15.0, 60.0, 300.0, 900.0)  # seconds before the first, second, ... try again; then the last

log = logging.getLogger("unigrec.service")


async def _nothing() -> None:
    pass


@dataclass(eq=False)
class Followed:
    """A model that a fleet is to serve.

    model: alias, version number, or a bundle's folder. wants: whether a version is to be loaded at all. changed: called
    after each change. is_needed: nothing is served without it, so if the first version does not load, all ends.
    """

    model: str
    fleet: Fleet
    is_needed: bool = True
    wants: Callable[[Version], bool] = lambda version: True
    changed: Callable[[], Awaitable[None]] = _nothing
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    label: str | None = None  # of the last version that was asked for
    folder: Path | None = None  # its files, which are gone if it did not load
    failures: int = 0
    problem: str | None = None  # why the version does not load
    retry: asyncio.TimerHandle | None = None

    @property
    def is_folder(self) -> bool:
        return "/" in self.model or os.path.isdir(self.model)


class Follower:
    """Lets each fleet serve its model, and what comes after it."""

    def __init__(self, followed: list[Followed], registry: RegisterParams, scratch: Path, seconds: float):
        self.followed, self.registry, self.scratch, self.seconds = followed, registry, scratch, seconds
        self._watch: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Until it is cancelled. Raises UnigrecError if the first version of a model that is needed does not load."""
        async with contextlib.AsyncExitStack() as stack:
            works = [self._follow(one) for one in self.followed]
            if any(not one.is_folder for one in self.followed):
                works.append(self._watch_registry())
            tasks = [asyncio.create_task(work) for work in works]
            stack.push_async_callback(_cancelled, tasks)
            await asyncio.gather(*tasks)

    async def _follow(self, one: Followed) -> None:
        if one.is_folder:
            one.events.put_nowait(_event_of(one))
        while True:
            await self._meet(one, await one.events.get())

    async def _meet(self, one: Followed, event: Event) -> None:
        version = event.version
        if version is None:
            if one.fleet.current is None and event.problem is not None and one.is_needed:
                raise UnigrecError(event.problem)
            one.fleet.report(event.problem or one.problem)
            return
        current = one.fleet.current
        if one.folder == version.folder and (current is None or current.version.folder != version.folder):
            return  # more is known of a version that does not load, or that was ended
        if version.label != one.label:
            one.failures = 0
        one.label, one.folder, one.problem = version.label, version.folder, None
        if one.retry is not None:
            one.retry.cancel()
        if not one.wants(version):
            one.fleet.report(None)
            await one.fleet.end()
            one.fleet.remove(version)
            return
        is_first = current is None
        try:
            await one.fleet.change(version)
        except UnigrecError:
            if is_first and one.is_needed:
                raise
            self._try_later(one)
        else:
            one.failures = 0
            await one.changed()

    def _try_later(self, one: Followed) -> None:
        pause = RETRY_PAUSES[min(one.failures, len(RETRY_PAUSES) - 1)]
        one.failures += 1
        one.problem = one.fleet.problem
        log.info("%s is tried again in %g s", one.label, pause)
        one.retry = asyncio.get_running_loop().call_later(pause, self._again, one)

    def _again(self, one: Followed) -> None:
        one.folder = None
        if one.is_folder:
            one.events.put_nowait(_event_of(one))
        elif self._watch is not None and self._watch.stdin is not None:
            self._watch.stdin.write(one.model.encode() + b"\n")

    async def _watch_registry(self) -> None:
        """Give each model its events. The process that watches is started again if it ends."""
        names = {one.model: one for one in self.followed if not one.is_folder}
        while True:
            try:
                self._watch = process = await new_process("unigrec.service.watch")
            except UnigrecError as error:
                log.error("the registry is not watched: %s; tried again", error)
                await asyncio.sleep(self.seconds)
                continue
            assert process.stdin is not None
            assert process.stdout is not None
            watched = Watched(
                register_params=self.registry, models=tuple(names), scratch=self.scratch, seconds=self.seconds
            )
            process.stdin.write(watched.model_dump_json().encode() + b"\n")  # an address may hold a password
            try:
                async for line in process.stdout:
                    event = Event.model_validate_json(line)
                    names[event.model].events.put_nowait(event)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            log.error("the process that watches the registry ended; it is started again")
            await asyncio.sleep(self.seconds)


def _event_of(one: Followed) -> Event:
    folder = Path(one.model)
    return Event(model=one.model, version=Version(label=folder.name, folder=folder.absolute()))


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
