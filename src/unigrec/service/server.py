"""The process behind the address: HTTP, the queue, and the processes that it starts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import uvicorn

from unigrec.base.errors import UnigrecError
from unigrec.base.masking import SERVE_TOKENS_VARIABLE
from unigrec.service.app import Service, batcher_of, build_app
from unigrec.service.experiment import Experiment
from unigrec.service.fleet import Fleet
from unigrec.service.follow import Followed, Follower
from unigrec.service.guard import Guard
from unigrec.service.impressions import Impressions
from unigrec.service.metrics import Metrics
from unigrec.service.variants import CHALLENGER

if TYPE_CHECKING:
    from unigrec.config.schema import RegisterParams, ServeParams

MIN_TOKEN = 16  # characters
LOOPBACK = ("127.0.0.1", "::1", "localhost")

log = logging.getLogger("unigrec.service")


class Place(NamedTuple):
    """Where the service is found. port: 0: any that is free."""

    host: str
    port: int


class Served(NamedTuple):
    """What answers: aliases, which are watched, version numbers, or bundles' folders.

    workers: of the model. challenger: of an experiment, or None. share: of visitors that it answers.
    """

    model: str
    workers: int
    challenger: str | None = None
    share: float = 0.0

    @property
    def challenging_workers(self) -> int:
        return max(1, round(self.share * self.workers))


def serve(params: ServeParams, registry: RegisterParams, served: Served, place: Place) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        UnigrecError: the address is taken, a token is too short, the first model does not load, or the log of
            impressions cannot be written.
    """
    _set_up_log()
    tokens = tokens_from(os.environ.get(SERVE_TOKENS_VARIABLE, ""))
    listener = _bound(place)
    with listener, tempfile.TemporaryDirectory(prefix="unigrec-serve-") as scratch:
        asyncio.run(_Server(params, registry, served, Path(scratch), tokens, listener).run())


def tokens_from(text: str) -> list[str]:
    """Tokens with commas between them. Raises UnigrecError if one is short."""
    tokens = [token.strip() for token in text.split(",") if token.strip()]
    if any(len(token) < MIN_TOKEN for token in tokens):
        raise UnigrecError(
            f"{SERVE_TOKENS_VARIABLE}: a token has fewer than {MIN_TOKEN} characters; make one with: "
            'python -c "import secrets; print(secrets.token_urlsafe(24))"'
        )
    return tokens


def _bound(place: Place) -> socket.socket:
    """A socket that does not listen yet. Raises UnigrecError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0]
        # asyncio sends small packets at once only where the protocol is named. Else each answer on a kept connection
        # waits for the client's delayed acknowledgement, some 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UnigrecError(
            f"{place.host}:{place.port}: cannot be bound: {error.strerror}; choose another one with --host and --port"
        ) from error
    return listener


def _set_up_log() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    for logger, level in ((log, logging.INFO), (logging.getLogger("uvicorn"), logging.CRITICAL)):
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False


class _Uvicorn(uvicorn.Server):
    """Uvicorn without its signal handlers: the service drains first, and cleans up after it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Server:
    def __init__(
        self,
        params: ServeParams,
        registry: RegisterParams,
        served: Served,
        scratch: Path,
        tokens: list[str],
        listener: socket.socket,
    ):
        self.params, self.served, self.listener = params, served, listener
        metrics = Metrics()
        batcher = batcher_of(params, metrics)
        self.fleet = Fleet(scratch, served.workers, batcher, metrics)
        followed = [Followed(served.model, self.fleet, changed=self._changed)]
        self.experiment: Experiment | None = None
        if served.challenger is not None:
            queue = batcher_of(params, metrics, CHALLENGER)
            challenger = Fleet(scratch, served.challenging_workers, queue, metrics)
            self.experiment = found = Experiment(self.fleet, challenger, served.share)
            followed.append(
                Followed(served.challenger, challenger, is_needed=False, wants=found.wants, changed=found.settle)
            )
        self.follower = Follower(followed, registry, scratch, params.watch_seconds)
        self.impressions: Impressions | None = None
        if params.impressions:
            folder, seconds, size = Path(params.impressions), params.impressions_seconds, params.impressions_mb
            self.impressions = Impressions(folder, seconds, size, metrics)
        self.service = Service(params, self.fleet, batcher, metrics, self.experiment, self.impressions)
        self.is_said = False
        self.guard = Guard(build_app(self.service), tokens, params.max_body_kb * 1024, params.log, metrics)
        self.http = _Uvicorn(
            uvicorn.Config(
                self.guard,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=int(params.deadline_ms / 1e3) + 1,
            )
        )
        self.failure: Exception | None = None
        host, port = listener.getsockname()[:2]
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if host not in LOOPBACK and not tokens:
            log.warning("no token is needed: who reaches %s may ask; set %s", self.address, SERVE_TOKENS_VARIABLE)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        log.info("loading %s", self.served.model)
        if self.experiment is not None:
            log.info("challenger of %g of the visitors: %s", self.served.share, self.served.challenger)
        if self.impressions is not None:
            log.info("impressions, with the ids of users, go to %s", self.impressions.folder)
        fleets = [one.fleet for one in self.follower.followed]
        for fleet in fleets:
            await fleet.open()
        follow = asyncio.create_task(self._follow_or_end())
        try:
            await self.http.serve(sockets=[self.listener])
        finally:
            follow.cancel()
            await asyncio.wait({follow})
            for fleet in fleets:
                await fleet.close()
            if self.impressions is not None:
                await asyncio.to_thread(self.impressions.close)
        log.info("ended")
        if self.failure is not None:
            raise self.failure

    def _end(self, number: int) -> None:
        """End: on SIGTERM after `drain_seconds`, in which load balancers see /readyz; at once on Ctrl-C."""
        if self.service.is_draining or number == signal.SIGINT:
            self.http.should_exit = True
            return
        log.info("draining for %g s", self.params.drain_seconds)
        self.service.is_draining = self.guard.is_draining = True
        asyncio.get_running_loop().call_later(self.params.drain_seconds, setattr, self.http, "should_exit", True)

    async def _follow_or_end(self) -> None:
        """Follow the models. If the first one does not load, end.

        End on a defect too: a service that would answer for ever with today's model must not look well.
        """
        try:
            await self.follower.run()
        except Exception as error:
            self.failure = error
            self.http.should_exit = True

    async def _changed(self) -> None:
        """The champion has changed."""
        if not self.is_said:
            self.is_said = True
            self._say_ready()
        if self.experiment is not None:
            await self.experiment.settle()

    def _say_ready(self) -> None:
        log.info("ready at %s (a page of all addresses: %s/docs)", self.address, self.address)
