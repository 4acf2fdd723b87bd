"""Sorted rows of a log, read from files into integers on the driver, a batch at a time.

Every row takes 16 bytes from then on, 24 with event types. Rows equal in user, item, time and event leave at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unigrec.data.prepare import InteractionLog, drop_duplicates, event_types, hashes, mixed

ROWS_AT_ONCE = 1_000_000  # that are read


class Collected(NamedTuple):
    """Legend: n rows, U users."""

    log: InteractionLog  # (n,) in order, without duplicates
    user_ids: pa.Array  # (U,) in byte order
    of_user: np.ndarray  # (U,) int64, rows of each, with duplicates


def collect(
    paths: list[Path], rows: int, item_ids: pa.Array, events: Mapping[str, float] | None, *, shuffled: bool
) -> Collected:
    """Read rows that are sorted by user, then time, then their place in the log.

    Args:
        rows: of all files. item_ids: all items in byte order.
        shuffled: a hash of user and item decides the order of equal times.
    """
    types = np.empty(rows, np.int64) if events else None
    log = InteractionLog(np.empty(rows, np.int32), np.empty(rows, np.int32), np.empty(rows, np.int64), types)
    of_item = hashes(item_ids) if shuffled else None
    ids: list[pa.Array] = []
    lengths: list[np.ndarray] = []
    count, last, begin, at = 0, None, 0, 0  # begin: of the last user's last time; what has that time may go on
    for batch, items in _batches(paths, item_ids):
        runs = pc.run_end_encode(batch["user_id"])
        of_run = np.diff(runs.run_ends.to_numpy(), prepend=0).astype(np.int64)
        goes_on = runs.values[0].as_py() == last
        if goes_on:
            lengths[-1][-1] += of_run[0]
        else:
            begin = at
        first = count - goes_on
        ids.append(runs.values[int(goes_on) :])
        lengths.append(of_run[int(goes_on) :])
        count, last = first + len(of_run), runs.values[-1].as_py()
        place = slice(at, at + batch.num_rows)
        log.users[place] = np.repeat(np.arange(first, count), of_run)
        log.items[place] = items
        log.timestamps[place] = batch["timestamp"].to_numpy()
        if log.events is not None and events:
            log.events[place] = event_types(batch["event"], events)
        piece = _part(log, begin, place.stop)
        if of_item is not None:
            _order_ties(piece, mixed(hashes(runs.values)[piece.users - first], of_item[piece.items]))
        left = drop_duplicates(piece)
        at = begin + len(left.users)
        if left is not piece:
            _put(log, begin, left)
        begin += _begin_of_last_time(left)
    user_ids = pa.concat_arrays(ids) if ids else pa.array([], pa.string())
    of_user = np.concatenate(lengths) if lengths else np.zeros(0, np.int64)
    return Collected(_part(log, 0, at), user_ids, of_user[of_user > 0])


def _batches(paths: list[Path], item_ids: pa.Array) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """Batches of rows, and the index of each row's item.

    Every look-up makes a table of all items, so it looks up as many rows as there are items, or more.
    """
    held: list[pa.RecordBatch] = []
    for path in [*paths, None]:
        if path is not None:
            with pq.ParquetFile(path) as file:
                held += file.iter_batches(batch_size=ROWS_AT_ONCE)
        if held and (path is None or sum(batch.num_rows for batch in held) >= len(item_ids)):
            column = pa.chunked_array([batch["item_id"] for batch in held])
            found, at = pc.index_in(column, value_set=item_ids).to_numpy(), 0
            for batch in held:
                if batch.num_rows:
                    yield batch, found[at : (at := at + batch.num_rows)]
            held = []


def _part(log: InteractionLog, low: int, high: int) -> InteractionLog:
    """Rows of a log, which share its memory."""
    events = None if log.events is None else log.events[low:high]
    return InteractionLog(log.users[low:high], log.items[low:high], log.timestamps[low:high], events)


def _put(log: InteractionLog, low: int, rows: InteractionLog) -> None:
    for column, values in zip(log, rows, strict=True):
        if column is not None and values is not None:
            column[low : low + len(values)] = values


def _order_ties(log: InteractionLog, keys: np.ndarray) -> None:
    """Order rows with one user and time by their keys (n,), in place; equal keys keep their order."""
    tied = (log.users[1:] == log.users[:-1]) & (log.timestamps[1:] == log.timestamps[:-1])
    rows = np.flatnonzero(np.r_[tied, False] | np.r_[False, tied])
    run = np.cumsum(np.r_[True, ~tied])[rows]
    order = rows[np.lexsort((keys[rows], run))]
    for column in (log.items, log.events):
        if column is not None:
            column[rows] = column[order]


def _begin_of_last_time(log: InteractionLog) -> int:
    """Where the rows begin that have the last row's user and time."""
    differs = (log.users[1:] != log.users[:-1]) | (log.timestamps[1:] != log.timestamps[:-1])
    places = np.flatnonzero(differs)
    return int(places[-1]) + 1 if len(places) else 0
