"""Shared by the readers: describe a file by its content, read large text line by line, name the file in errors."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from unigrec.base.errors import UnigrecError

MAX_LINE_BYTES = 4 * 2**20  # far beyond any review or product, far below what could exhaust the memory


def describe(file: Path, folder: Path) -> dict:
    """Name within the source's folder, size and hash; the same data in another place gives the same description."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"name": file.relative_to(folder).as_posix(), "bytes": file.stat().st_size, "sha256": digest}


def refuse_empty(file: Path) -> None:
    """Raises UnigrecError when the file has no bytes."""
    if file.stat().st_size == 0:
        raise UnigrecError(f"{file}: the file is empty (0 bytes); write or download it again")


@contextmanager
def readable(file: Path, kind: str) -> Iterator[None]:
    """Context manager: errors of pyarrow and the system become a UnigrecError that names the file."""
    try:
        yield
    except PermissionError as error:
        raise UnigrecError(f"{file}: may not be read by this user; change its permissions or its owner") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        detail = str(error).strip().splitlines()[0]
        raise UnigrecError(
            f"{file}: cannot be read as {kind}, it is cut off or damaged ({detail}); write or download it again"
        ) from error


def read_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield line numbers (from 1) and lines of a plain or gzip file, without blank lines; one line in memory at a time.

    Raises:
        UnigrecError: the file is empty, damaged or cut off, or a line is longer than `MAX_LINE_BYTES`.
    """
    refuse_empty(file)
    number = 0
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise UnigrecError(
                        f"{file}, line {number}: longer than {MAX_LINE_BYTES:,} bytes; expected one record per line"
                    )
                if not line.isspace():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise UnigrecError(
            f"{file}: damaged or cut off after line {number:,} ({error}); download or write it again"
        ) from error
