"""What stands before every address: tokens, the size of a body, the log and the figures, and no traceback."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastapi import HTTPException

from unigrec.service.explorer.addresses import PAGE
from unigrec.service.replies import INTERNAL, place_of, problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from unigrec.service.metrics import Metrics

# For probes, and for the pages, which ask for the token.
OPEN = {"/healthz", "/readyz", "/docs", "/openapi.json", *PAGE}
BODY_SECONDS = 10.0  # for a part of a body to arrive

log = logging.getLogger("unigrec.service")


class Guard:
    """An ASGI application around another one.

    Args:
        tokens: one of them is needed, unless there is none. max_body: bytes. logged: `events`: no line per request;
            `requests`: method, address without ids, status and time; `bodies`: the whole path and the body too.
    """

    def __init__(self, app: ASGIApp, tokens: Sequence[str], max_body: int, logged: str, metrics: Metrics):
        self.app, self.tokens = app, [token.encode() for token in tokens]
        self.max_body, self.logged, self.metrics = max_body, logged, metrics
        self.is_draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await _Exchange(self, scope, receive, send).run()

    def permits(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the headers hold a token. Every token is compared, each in constant time."""
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        found = [hmac.compare_digest(given.strip(), token) for token in self.tokens]
        return not self.tokens or (kind.lower() == b"bearer" and any(found))


class _Exchange:
    """One request and its response."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send):
        self.guard, self.scope, self._receive, self._send = guard, scope, receive, send
        self.status = 0
        self.body = b""
        self.size = 0
        self.complete = False

    async def run(self) -> None:
        started = time.monotonic()
        headers = dict(self.scope["headers"])
        try:
            if (refusal := self._refusal(headers)) is not None:
                await self._answer(*refusal)
            else:
                await self.guard.app(self.scope, self.receive, self.send)
        except Exception as error:  # its text may hold ids, and a traceback is nobody's business
            log.error("%s at %s", type(error).__name__, place_of(error))
            if not self.status:
                await self._answer(INTERNAL, "internal error")
        self._note(time.monotonic() - started)

    def _refusal(self, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        if self.scope["path"] not in OPEN and not self.guard.permits(headers):
            return 401, "a token is needed: Authorization: Bearer TOKEN"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self.guard.max_body:
            return 413, f"the body is larger than {self.guard.max_body} bytes"
        return None

    async def receive(self) -> Message:
        if self.complete:
            return await self._receive()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPException(408, "the body did not arrive") from error
        part = message.get("body", b"")
        self.size += len(part)
        if self.size > self.guard.max_body:
            raise HTTPException(413, f"the body is larger than {self.guard.max_body} bytes")
        if self.guard.logged == "bodies":
            self.body += part
        self.complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.guard.is_draining:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        await self._send(message)

    async def _answer(self, status: int, text: str) -> None:
        headers = [(b"content-type", b"application/json")]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if status == 413:
            headers.append((b"connection", b"close"))  # the body is not read
        body = problem(text)
        headers.append((b"content-length", str(len(body)).encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    def _note(self, seconds: float) -> None:
        address = getattr(self.scope.get("route"), "path_format", "other")
        self.guard.metrics.requests.labels(address, self.status).inc()
        self.guard.metrics.seconds.labels(address).observe(seconds)
        if self.guard.logged == "requests":
            log.info("%s %s %d %.1f ms", self.scope["method"], address, self.status, seconds * 1e3)
        elif self.guard.logged == "bodies":
            path, body = self.scope["path"], self.body.decode(errors="replace")
            log.info("%s %r %d %.1f ms %r", self.scope["method"], path, self.status, seconds * 1e3, body)
