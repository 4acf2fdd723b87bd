"""The model that answers, and its processes: started, checked, exchanged for another, kept alive.

A *generation* is a process that holds one bundle, with its workers (unigrec.service.generation). Another model comes as
another generation: it loads while the old one answers, takes over when all its workers are there, and the old one ends
after its last batch.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unigrec.base.errors import UnigrecError
from unigrec.service import frames
from unigrec.service.batching import Batcher, Worker
from unigrec.service.generation import Order
from unigrec.service.metrics import Metrics
from unigrec.service.variants import CHAMPION
from unigrec.service.watch import Version

LOAD_SECONDS = 300.0
END_SECONDS = 10.0  # for a retired generation
RESTART_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds before the first, second, ... restart; then the last
READ_LIMIT = 1 << 22  # bytes that wait in a connection

log = logging.getLogger("unigrec.service")


@dataclass(eq=False)
class Generation:
    """facts: what `GET /v1/model` says of the bundle."""

    number: int
    version: Version
    process: asyncio.subprocess.Process
    facts: dict[str, Any] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    retired: bool = False


class Fleet:
    """Keeps one generation answering.

    Args:
        scratch: a private folder, for the socket; versions in it are removed when they are exchanged.
        batcher: its queue; the variant that it serves is the fleet's.
    """

    def __init__(self, scratch: Path, workers: int, batcher: Batcher, metrics: Metrics):
        self.scratch, self.size, self.batcher, self.metrics = scratch, workers, batcher, metrics
        self.variant = batcher.variant
        self.on_down: Callable[[], None] = lambda: None  # no worker is left
        self.current: Generation | None = None
        self.problem: str | None = None  # why the model that is asked for does not answer
        self._numbers = itertools.count(1)
        self._started: dict[int, Generation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._spare: asyncio.subprocess.Process | None = None
        batcher.on_lost = self._lost

    @property
    def address(self) -> str:
        return str(self.scratch / f"{self.variant}-workers")

    @property
    def is_ready(self) -> bool:
        """Whether a question would be answered."""
        return self.alive > 0

    @property
    def alive(self) -> int:
        """Workers that take batches."""
        return sum(not worker.is_lost for worker in self.current.workers) if self.current else 0

    async def open(self) -> None:
        """Wait for workers, and start the first process, which imports while the model is still looked for."""
        self._server = await asyncio.start_unix_server(self._connected, self.address, limit=READ_LIMIT)
        self._spare = await _new_generation()

    async def change(self, version: Version) -> None:
        """Let a version answer from now on. Raises UnigrecError when it does not load; the old one goes on then."""
        if self.current is not None and self.current.version.folder == version.folder:
            self.current.version = version  # the same files: more is known of them
            return
        started = time.monotonic()
        try:
            new = await self._start(version)
        except UnigrecError as error:
            self._say_problem(f"{version.label} does not load: {error}")
            self.metrics.changes.labels(self.variant, "failed").inc()
            self.remove(version)
            raise
        self._say_problem(None)
        old, self.current = self.current, new
        for worker in new.workers:
            self._let_answer(worker, new)
        self._count()
        self.metrics.changes.labels(self.variant, "loaded").inc()
        if old is not None:
            self.metrics.model.remove(*self._labels(old))
        self.metrics.model.labels(*self._labels(new)).set(1)
        what = "model" if self.variant == CHAMPION else self.variant
        log.info("%s %s answers, after %.1f s", what, version.label, time.monotonic() - started)
        self._in_background(self._watch(new))
        if old is not None:
            await self._retire(old)

    async def end(self) -> None:
        """Let no model answer any more; `on_down` is told first, so that it can take over what waits."""
        if (old := self.current) is None:
            return
        self.current = None
        self.on_down()
        self._count()
        self.metrics.model.remove(*self._labels(old))
        await self._retire(old)

    def _labels(self, generation: Generation) -> tuple[str, str, str, str]:
        facts = generation.facts
        return self.variant, generation.version.label, facts["bundle"], facts["data"]["version"]

    def report(self, problem: str | None) -> None:
        """Note what is wrong with the model that is asked for, or that nothing is."""
        if problem != self.problem:
            self._say_problem(problem)

    async def close(self) -> None:
        """End all processes."""
        if self.current is not None:
            await self._retire(self.current)
        for task in self._tasks:
            task.cancel()
        for generation in list(self._started.values()):
            await self._end(generation)
        if self._spare is not None:
            self._spare.kill()
            await self._spare.wait()
        if self._server is not None:
            self._server.close()

    async def _start(self, version: Version) -> Generation:
        """A generation whose workers are all connected. Raises UnigrecError."""
        number = next(self._numbers)
        process = self._spare or await _new_generation()
        self._spare = None
        generation = self._started[number] = Generation(number, version, process)
        assert process.stdin is not None
        assert process.stdout is not None
        order = Order(folder=version.folder, number=number, address=self.address, workers=self.size)
        process.stdin.write(order.model_dump_json().encode() + b"\n")
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                line = await process.stdout.readline()
                said = json.loads(line) if line else {"failed": f"its process ended with code {await process.wait()}"}
                if "failed" in said:
                    raise UnigrecError(said["failed"])
                generation.facts = said
                await self._all_connected(generation)
        except TimeoutError as error:
            await self._end(generation)
            raise UnigrecError(f"not loaded after {LOAD_SECONDS:.0f} s") from error
        except UnigrecError:
            await self._end(generation)
            raise
        return generation

    async def _all_connected(self, generation: Generation) -> None:
        ended = asyncio.ensure_future(generation.process.wait())
        connected = asyncio.ensure_future(generation.complete.wait())
        await asyncio.wait({ended, connected}, return_when=asyncio.FIRST_COMPLETED)
        connected.cancel()
        if ended.done():
            raise UnigrecError(f"its process ended with code {ended.result()}")
        ended.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A worker introduces itself."""
        try:
            number, process = map(int, await frames.read(reader))
        except (EOFError, OSError, ValueError):
            writer.close()
            return
        generation = self._started.get(number)
        if generation is None or generation.retired:
            writer.close()
            return
        worker = Worker(reader, writer, process, generation.version.label)
        generation.workers.append(worker)
        if len(generation.workers) >= self.size:
            generation.complete.set()
        if generation is self.current:  # in place of one that died
            self._let_answer(worker, generation)
            self._count()

    def _let_answer(self, worker: Worker, generation: Generation) -> None:
        worker.bundle = generation.facts["bundle"]
        self.batcher.add(worker)

    def _lost(self, worker: Worker) -> None:
        log.warning("a worker of model %s died", worker.version)
        self.metrics.lost.labels(self.variant).inc()
        for generation in self._started.values():
            if worker in generation.workers:
                generation.workers.remove(worker)
        self._count()
        if not self.is_ready:
            self.on_down()

    async def _watch(self, generation: Generation) -> None:
        """Start the generation again if its process dies."""
        code = await generation.process.wait()
        if generation.retired:
            return
        log.error("the process of model %s ended with code %s; it is started again", generation.version.label, code)
        for attempt in itertools.count():
            await asyncio.sleep(RESTART_PAUSES[min(attempt, len(RESTART_PAUSES) - 1)])
            if generation is not self.current:
                return
            try:
                new = await self._start(generation.version)
            except UnigrecError as error:
                if generation is self.current:  # else another model has come meanwhile, and this one's files are gone
                    self._say_problem(f"{generation.version.label} does not load any more: {error}")
                continue
            if generation is not self.current:
                await self._end(new)
                return
            self._started.pop(generation.number, None)
            self.current = new
            for worker in new.workers:
                self._let_answer(worker, new)
            self._count()
            self._say_problem(None)
            self._in_background(self._watch(new))
            return

    async def _retire(self, generation: Generation) -> None:
        """Let the workers finish their batches, then end the process and remove the files."""
        generation.retired = True
        await asyncio.gather(*(self.batcher.retire(worker) for worker in generation.workers))
        try:
            async with asyncio.timeout(END_SECONDS):
                await generation.process.wait()
        except TimeoutError:
            log.warning("the process of model %s did not end; it is killed", generation.version.label)
        await self._end(generation)
        if self.current is not generation:
            self.remove(generation.version)

    async def _end(self, generation: Generation) -> None:
        generation.retired = True
        self._started.pop(generation.number, None)
        if generation.process.returncode is None:
            generation.process.kill()
            await generation.process.wait()

    def remove(self, version: Version) -> None:
        """Remove the files of a version, if they were fetched for this service."""
        if version.folder.is_relative_to(self.scratch):
            shutil.rmtree(self.scratch / version.folder.relative_to(self.scratch).parts[0], ignore_errors=True)

    def _say_problem(self, problem: str | None) -> None:
        if problem is not None:
            log.error("%s", problem)
        self.problem = problem
        self.metrics.problem.labels(self.variant).set(problem is not None)

    def _count(self) -> None:
        self.metrics.workers.labels(self.variant).set(self.alive)

    def _in_background(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def new_process(module: str, **environment: str) -> asyncio.subprocess.Process:
    """A process of this project that waits for words on its standard input.

    Raises UnigrecError if the system has no room for one now: too many processes or open files, or no memory.
    """
    try:
        return await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", module],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | environment,
            start_new_session=True,  # Ctrl-C is for the service alone, which ends its processes in order
        )
    except (OSError, RuntimeError) as error:  # RuntimeError: no thread that waits for its end (Python 3.11)
        raise UnigrecError(f"no process of {module} could be started: {error}") from error


async def _new_generation() -> asyncio.subprocess.Process:
    """A process that waits for an `Order`."""
    return await new_process("unigrec.service.generation", OMP_NUM_THREADS="1")
