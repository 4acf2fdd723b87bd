"""Parts of a service that run in the test's process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from unigrec.config.schema import ServeParams
from unigrec.service.app import Service, batcher_of, build_app
from unigrec.service.batching import Batcher, Worker
from unigrec.service.generation import facts_of
from unigrec.service.guard import Guard
from unigrec.service.metrics import Metrics
from unigrec.service.replies import Question, Reply, replies
from unigrec.service.watch import Version


class NoConnection:
    """In place of both streams of a worker."""

    def at_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


class LocalWorker(Worker):
    """Replies in this process. batches: what it was asked. wait: when set, it does not reply before it is set again."""

    def __init__(self, bundle: Any, version: str = "1"):
        super().__init__(NoConnection(), NoConnection(), process=0, version=version)
        self.bundle, self.batches = bundle, []
        self.go = asyncio.Event()
        self.go.set()

    async def ask(self, questions: list[Question]) -> list[Reply]:
        self.batches.append(questions)
        await self.go.wait()
        return replies(self.bundle, questions)


@dataclass
class LocalGeneration:
    version: Version
    facts: dict[str, Any]
    workers: list[Worker]


class LocalFleet:
    """One worker, which is there at once."""

    def __init__(self, batcher: Batcher):
        self.batcher, self.current, self.problem = batcher, None, None

    @property
    def is_ready(self) -> bool:
        return self.current is not None

    async def take(self, worker: LocalWorker) -> None:
        version = Version(label=worker.version, folder=worker.bundle.folder, since="2026-01-01", why="better")
        self.current = LocalGeneration(version, facts_of(worker.bundle), [worker])
        self.batcher.add(worker)


@dataclass
class Parts:
    """A service and what it is made of."""

    service: Service
    guard: Guard
    metrics: Metrics
    client: Any = None

    @property
    def worker(self) -> LocalWorker:
        (worker,) = self.service.fleet.current.workers
        return worker

    def figure(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


def parts_of(params: ServeParams, tokens: tuple[str, ...] = ()) -> Parts:
    """A service without a model."""
    metrics = Metrics()
    batcher = batcher_of(params, metrics)
    service = Service(params, LocalFleet(batcher), batcher, metrics)
    guard = Guard(build_app(service), tokens, params.max_body_kb * 1024, params.log, metrics)
    return Parts(service, guard, metrics)
