"""The log of impressions: which items a visitor was shown, when, and by which version. Parquet files in a folder.

It holds ids of users, so it is off unless the operator names a folder. A thread writes it; answers do not wait for it.
A file appears under its name when it is whole. What cannot be kept within the memory allowed is dropped and counted.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import queue
import re
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.data.sources.impressions import schema

if TYPE_CHECKING:
    from unigrec.service.metrics import Metrics

FILES_HELD = 4  # so many files' worth of impressions may be in memory
ROW_BYTES = 1000  # of an impression in memory, beside its items
ITEM_BYTES = 80  # of an item's id, about
AGAIN_SECONDS = 5.0  # after a file that could not be written
END_SECONDS = 30.0  # for what is left when the service ends
MASKED = re.compile(r"[^A-Za-z0-9]+")  # of a host's name in a file's

log = logging.getLogger("unigrec.service")


class Shown(NamedTuple):
    """An answer that a user got. time: unix seconds. body: the answer's JSON, which the thread reads."""

    time: float
    request_id: str
    user_id: str
    experiment: str | None
    share: float | None
    assigned: str
    variant: str
    version: str
    bundle: str
    kind: str
    k: int
    body: bytes


class Impressions:
    """Takes impressions, and writes them.

    Args:
        seconds: after which a file is written, however small. megabytes: of impressions in memory, after which it is
            written too.

    Raises:
        UnigrecError: the folder cannot be written.
    """

    def __init__(self, folder: Path, seconds: float, megabytes: float, metrics: Metrics):
        self.folder, self.seconds, self.largest, self.metrics = folder, seconds, int(megabytes * 1e6), metrics
        _check(folder)
        for reason in ("no room", "end"):
            metrics.unlogged.labels(reason)  # 0 is a figure too
        self._schema = schema()
        self._queue: queue.SimpleQueue[Shown | None] = queue.SimpleQueue()
        self._held = 0  # bytes in the queue and in rows
        self._lock = threading.Lock()  # of _held
        self._rows: list[dict[str, Any]] = []
        self._rows_bytes = 0
        self._due = float("inf")  # monotonic seconds: when the rows are written
        self._files = 0
        self._failing = self._closed = False
        self._thread = threading.Thread(target=self._run, name="impressions", daemon=True)
        self._thread.start()

    def add(self, shown: Shown) -> bool:
        """Take an impression, without waiting; False if there is no room for it."""
        size = ROW_BYTES + len(shown.body)
        if self._held + size > FILES_HELD * self.largest:
            self.metrics.unlogged.labels("no room").inc()
            return False
        self._count(size)
        self._queue.put(shown)
        return True

    def close(self) -> None:
        """Write what is left. To be called when no answer is under way any more; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._thread.join(END_SECONDS)
        if left := len(self._rows) + self._queue.qsize():
            self.metrics.unlogged.labels("end").inc(left)
            log.error("%d impressions are lost: %s could not be written", left, self.folder)

    def _run(self) -> None:
        while True:
            try:
                shown = self._queue.get(timeout=max(min(self._due - time.monotonic(), self.seconds), 0.0))
            except queue.Empty:
                shown = None
                is_end = False
            else:
                is_end = shown is None
            if shown is not None:
                self._take(shown)
            is_full = self._rows_bytes >= self.largest and not self._failing
            if self._rows and (is_end or is_full or time.monotonic() >= self._due):
                self._write()
            if is_end:
                return

    def _take(self, shown: Shown) -> None:
        """Make rows of an answer: one per history."""
        common = shown._asdict()
        body = json.loads(common.pop("body"))
        answers = body.get("answers", [body])
        common["time"] = int(shown.time * 1e6)
        size = 0
        for place, answer in enumerate(answers):
            items = [item["item_id"] for item in answer["items"]]
            self._rows.append(common | {"history": place, "items": items})
            size += ROW_BYTES + ITEM_BYTES * len(items)
        self.metrics.shown.inc(len(answers))
        self._rows_bytes += size
        self._count(size - ROW_BYTES - len(shown.body))
        if self._due == float("inf"):
            self._due = time.monotonic() + self.seconds

    def _write(self) -> None:
        """Write the rows as a file; if that fails, they wait for another try."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with files.atomic_path(self.folder / self._name()) as temporary:
                temporary.touch(mode=0o600)
                pq.write_table(pa.Table.from_pylist(self._rows, self._schema), temporary, compression="zstd")
        except (UnigrecError, pa.ArrowException) as error:
            self.metrics.unwritten.inc()
            if not self._failing:
                log.error("impressions wait: %s", error)
            self._failing = True
            self._due = time.monotonic() + AGAIN_SECONDS
            return
        if self._failing:
            log.info("impressions are written again")
        self._failing = False
        self._count(-self._rows_bytes)
        self._rows, self._rows_bytes, self._due = [], 0, float("inf")

    def _name(self) -> str:
        """Of a file, unique among processes and hosts that write to one folder; names sort by time."""
        self._files += 1
        first = datetime.datetime.fromtimestamp(self._rows[0]["time"] / 1e6, datetime.UTC)
        host = MASKED.sub("-", socket.gethostname())[:40]
        return f"{paths.IMPRESSIONS}{first:%Y%m%dT%H%M%S.%f}Z-{host}-{os.getpid()}-{self._files}.parquet"

    def _count(self, size: int) -> None:
        with self._lock:
            self._held += size


def _check(folder: Path) -> None:
    """Make the folder, for the operator alone. Raises UnigrecError if nothing can be written there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "no permission to write")
    except OSError as error:
        raise UnigrecError(f"{folder}: no folder for impressions: {error.strerror}; name another one") from error
