"""Parts of a service that run in the test's process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unigrec.config.schema import ServeParams
from unigrec.service.app import Service, batcher_of, build_app
from unigrec.service.batching import Batcher, Worker
from unigrec.service.experiment import Experiment
from unigrec.service.generation import facts_of
from unigrec.service.guard import Guard
from unigrec.service.impressions import Impressions
from unigrec.service.metrics import Metrics
from unigrec.service.replies import Question, Reply, replies
from unigrec.service.variants import CHALLENGER
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
        self.model, self.batches = bundle, []
        self.bundle = getattr(bundle, "id", "")
        self.go = asyncio.Event()
        self.go.set()

    async def ask(self, questions: list[Question]) -> list[Reply]:
        self.batches.append(questions)
        await self.go.wait()
        return replies(self.model, questions)


@dataclass
class LocalGeneration:
    version: Version
    facts: dict[str, Any]
    workers: list[Worker]


class LocalFleet:
    """One worker, which is there at once."""

    def __init__(self, batcher: Batcher):
        self.batcher, self.current, self.problem, self.on_down = batcher, None, None, None

    @property
    def is_ready(self) -> bool:
        return self.current is not None

    @property
    def alive(self) -> int:
        return int(self.is_ready)

    def report(self, problem: str | None) -> None:
        self.problem = problem

    async def end(self) -> None:
        """No worker is there any more."""
        old, self.current = self.current, None
        self.on_down()
        await self.batcher.retire(old.workers[0])

    async def take(self, worker: LocalWorker) -> None:
        version = Version(label=worker.version, folder=worker.model.folder, since="2026-01-01", why="better")
        self.current = LocalGeneration(version, facts_of(worker.model), [worker])
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


def parts_of(params: ServeParams, tokens: tuple[str, ...] = (), share: float | None = None) -> Parts:
    """A service without a model. share: of the challenger; None: no experiment."""
    metrics = Metrics()
    batcher = batcher_of(params, metrics)
    fleet = LocalFleet(batcher)
    experiment = share and Experiment(fleet, LocalFleet(batcher_of(params, metrics, CHALLENGER)), share)
    impressions = None
    if params.impressions:
        settings = (params.impressions_seconds, params.impressions_mb)
        impressions = Impressions(Path(params.impressions), *settings, metrics=metrics)
    service = Service(params, fleet, batcher, metrics, experiment or None, impressions)
    guard = Guard(build_app(service), tokens, params.max_body_kb * 1024, params.log, metrics)
    return Parts(service, guard, metrics)
