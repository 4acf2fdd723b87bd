"""The queue of questions, and the batches that workers take from it.

A worker takes what waits, as much as a batch holds. If that is less than a batch, it waits a few milliseconds for more
first, unless one question waits and the last batch was one question too: then few clients ask, and nothing would come.
Under load, batches therefore grow by themselves: they hold what arrived during the batch before. They shrink
where they take so long that their answers would come after the deadline: that work would be for nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from unigrec.service import frames
from unigrec.service.metrics import Metrics
from unigrec.service.replies import Question, Reply
from unigrec.service.variants import CHAMPION

STUCK_SECONDS = 60.0  # a batch that takes longer never ends
TRIES = 2  # a question whose worker died goes to one other worker, alone: it may be what kills them

log = logging.getLogger("unigrec.service")


class QueueFull(Exception):
    """No question is taken now."""


class Lost(Exception):
    """The workers that got the question died."""


@dataclass(eq=False)
class Job:
    """A question that waits. weight: histories. queue: where. version, bundle: of the model that replied."""

    question: Question
    weight: int
    reply: asyncio.Future[Reply]
    queue: Batcher
    arrived: float = field(default_factory=time.monotonic)
    tries: int = 0
    version: str = ""
    bundle: str = ""


@dataclass(eq=False)
class Worker:
    """A connection to a worker's process."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    process: int
    version: str
    bundle: str = ""
    task: asyncio.Task[None] | None = None
    idle: bool = True
    retired: bool = False

    @property
    def is_lost(self) -> bool:
        return self.reader.at_eof() or self.writer.is_closing()

    async def ask(self, questions: list[Question]) -> list[Reply]:
        """Raises OSError, EOFError or ValueError when the worker dies, TimeoutError when it is stuck."""
        self.writer.write(frames.packed([question.line() for question in questions]))
        async with asyncio.timeout(STUCK_SECONDS):
            lines = await frames.read(self.reader)
        found = [Reply.of_line(line) for line in lines]
        if len(found) != len(questions):
            raise ValueError(f"{len(found)} replies to {len(questions)} questions")
        return found


class Batcher:
    """Gives questions to workers.

    Args:
        limit: histories that may wait. size: histories of a batch, at most. wait_seconds: for more, where a batch is
            not full. slow_seconds: a batch that takes longer halves the next ones; another one lets them grow by one.
            variant: for the figures.
    """

    def __init__(
        self,
        limit: int,
        size: int,
        wait_seconds: float,
        slow_seconds: float,
        metrics: Metrics,
        variant: str = CHAMPION,
    ):
        self.limit, self.largest, self.size, self.variant = limit, size, size, variant
        self.wait_seconds, self.slow_seconds, self.metrics = wait_seconds, slow_seconds, metrics
        self.on_lost: Callable[[Worker], None] = lambda worker: None
        self._jobs: deque[Job] = deque()
        self._waiting = 0  # histories
        self._arrived = asyncio.Event()
        self._was_alone = True  # the last batch was one question

    def put(self, question: Question, weight: int) -> Job:
        """Raises QueueFull. A question that is larger than the queue is taken if nothing waits."""
        if self._jobs and self._waiting + weight > self.limit:
            raise QueueFull
        job = Job(question, weight, asyncio.get_running_loop().create_future(), self)
        self._add(job, self._jobs.append)
        return job

    def drop(self, job: Job) -> None:
        """Nobody waits for the reply any more."""
        job.reply.cancel()
        if job in self._jobs:
            self._jobs.remove(job)
            self._count(-job.weight)

    def hand_over(self, other: Batcher) -> None:
        """Let another queue have what waits here, in addition to what its limit allows: it was taken before."""
        while self._jobs:
            job = self._jobs.popleft()
            self._count(-job.weight)
            job.queue = other
            other._add(job, other._jobs.append)

    def add(self, worker: Worker) -> None:
        """Let a worker take batches from now on."""
        worker.task = asyncio.create_task(self._serve(worker))

    async def retire(self, worker: Worker) -> None:
        """Let a worker finish its batch, and take no other; then its process ends."""
        worker.retired = True
        if worker.task is not None:
            if worker.idle:
                worker.task.cancel()
            await asyncio.wait({worker.task})
        worker.writer.close()

    async def _serve(self, worker: Worker) -> None:
        while not worker.retired:
            worker.idle = True
            while not self._jobs:
                self._arrived.clear()
                await self._arrived.wait()
            worker.idle = False
            alone = self._was_alone and len(self._jobs) == 1
            if self._waiting < self.size and self.wait_seconds and not alone:
                await asyncio.sleep(self.wait_seconds)
            if worker.is_lost:
                break
            if not (jobs := self._take()):
                continue
            self._was_alone = len(jobs) == 1
            if not await self._ask(worker, jobs):
                break
        if not worker.retired:
            worker.writer.close()
            self.on_lost(worker)

    async def _ask(self, worker: Worker, jobs: list[Job]) -> bool:
        """Set the replies of jobs; False if the worker is lost."""
        started = time.monotonic()
        for job in jobs:
            job.tries += 1
            self.metrics.waited.observe(started - job.arrived)
        try:
            found = await worker.ask([job.question for job in jobs])
        except (OSError, EOFError, ValueError) as error:
            if isinstance(error, TimeoutError):
                log.error("a worker is stuck, and is ended")
                os.kill(worker.process, signal.SIGKILL)
            for job in reversed(jobs):
                self._again(job)
            return False
        self.metrics.batch.observe(sum(job.weight for job in jobs))
        seconds = time.monotonic() - started
        self.metrics.searched.observe(seconds)
        is_slow = seconds > self.slow_seconds
        self.size = max(self.size // 2, 1) if is_slow else min(self.size + 1, self.largest)
        for job, reply in zip(jobs, found, strict=True):
            if not job.reply.done():
                job.version, job.bundle = worker.version, worker.bundle
                job.reply.set_result(reply)
        return True

    def _again(self, job: Job) -> None:
        if job.reply.done():
            return
        if job.tries >= TRIES:
            job.reply.set_exception(Lost())
        else:
            self._add(job, self._jobs.appendleft)

    def _take(self) -> list[Job]:
        """The next batch; empty if another worker has taken all."""
        jobs: list[Job] = []
        weight = 0
        while self._jobs and (not jobs or weight + self._jobs[0].weight <= self.size):
            if jobs and self._jobs[0].tries:
                break
            job = self._jobs.popleft()
            self._count(-job.weight)
            jobs.append(job)
            weight += job.weight
            if job.tries:
                break
        return jobs

    def _add(self, job: Job, to: Callable[[Job], None]) -> None:
        to(job)
        self._count(job.weight)
        self._arrived.set()

    def _count(self, weight: int) -> None:
        self._waiting += weight
        self.metrics.queue.labels(self.variant).set(self._waiting)
