"""Frames between the service and its workers, over a Unix socket: a length of four bytes, then lines of JSON."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

LENGTH_BYTES = 4
LARGEST = 1 << 28  # bytes; far above the limits of a request


async def read(reader: asyncio.StreamReader) -> list[bytes]:
    """The lines of the next frame. Raises EOFError when the other side has ended, ValueError for no frame of ours."""
    length = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
    return (await reader.readexactly(_checked(length))).split(b"\n")


def packed(lines: Sequence[bytes]) -> bytes:
    """The frame of lines; none of them holds a line break."""
    content = b"\n".join(lines)
    return _checked(len(content)).to_bytes(LENGTH_BYTES, "big") + content


def receive(connection: socket.socket) -> list[bytes] | None:
    """As `read`, without asyncio; None when the other side has ended."""
    head = _receive_exactly(connection, LENGTH_BYTES)
    content = head and _receive_exactly(connection, _checked(int.from_bytes(head, "big")))
    return content.split(b"\n") if content else None


def _receive_exactly(connection: socket.socket, count: int) -> bytes:
    """Empty when the other side has ended."""
    parts: list[bytes] = []
    while count:
        part = connection.recv(min(count, 1 << 20))
        if not part:
            return b""
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _checked(length: int) -> int:
    if not 0 < length <= LARGEST:
        raise ValueError(f"a frame of {length} bytes")
    return length
