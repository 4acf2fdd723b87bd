"""Clients that ask a server over HTTP, each one request after the other on a connection that stays open."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import numpy as np

from benchmarks.speed.harness import in_child
from benchmarks.speed.server import Server

OK = 200


def under_load(server: Server, path: str, bodies: list[str], clients: int, seconds: float) -> dict[str, float]:
    """Answers, throughput, latency and CPU time of a server that clients ask for some seconds. Arguments as `load`."""
    before = server.cpu()
    found, _ = in_child(load, port=server.port, path=path, bodies=bodies, clients=clients, seconds=seconds)
    used, taken = server.cpu() - before, np.array(found["seconds"]) * 1e3
    if not len(taken):
        raise RuntimeError(f"{path}: no request was answered: {found['failed']}")
    return {
        "answers": float(len(taken)),
        "per s": len(taken) / found["wall"],
        "p50 ms": float(np.percentile(taken, 50)),
        "p99 ms": float(np.percentile(taken, 99)),
        "CPU ms": used / len(taken) * 1e3,
        "failed": float(sum(found["failed"].values())),
    }


def load(port: int, path: str, bodies: list[str], clients: int, seconds: float) -> dict[str, Any]:
    """Ask for a time; runs in its own process.

    Returns:
        seconds: of each answered request. failed: reason -> number of requests that got another status than 200, or no
        answer. wall: seconds until the last answer. versions: X-Unigrec-Version -> number of answers.
    """
    return asyncio.run(_load(port, path, [body.encode() for body in bodies], clients, seconds))


async def _load(port: int, path: str, bodies: list[bytes], clients: int, seconds: float) -> dict[str, Any]:
    taken: list[float] = []
    failed: Counter[str] = Counter()
    versions: Counter[str] = Counter()
    started = time.monotonic()

    async def ask(client: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
        place = client
        while time.monotonic() < started + seconds:
            body = bodies[place % len(bodies)]
            place += clients
            sent = time.monotonic()
            try:
                writer.write(_request(path, body))
                status, headers = await _answer(reader)
            except (OSError, EOFError) as error:
                failed[type(error).__name__] += 1
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
                continue
            if status == OK:
                taken.append(time.monotonic() - sent)
                versions[headers.get("x-unigrec-version", "none")] += 1
            else:
                failed[str(status)] += 1
        writer.close()

    await asyncio.gather(*(ask(client) for client in range(clients)))
    return {"seconds": taken, "failed": dict(failed), "wall": time.monotonic() - started, "versions": dict(versions)}


def _request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers; the body is read and left."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split()[1]), headers
