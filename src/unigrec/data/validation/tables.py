"""The tables as validation reads them: pandas frames, with computed columns for what one row alone does not show.

A computed column holds the offending value in rows that break an expectation, and null elsewhere. Shapes: n
interactions.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unigrec.base import files
from unigrec.data.drift import Drift
from unigrec.data.prepare import InteractionLog, filter_k_core

if TYPE_CHECKING:
    import pandas as pd

ROWS_PER_BLOCK = 2**20  # that a hash takes at once
INTERACTION_COLUMNS = {"user_id": "str", "item_id": "str", "timestamp": "int64"}
ITEM_COLUMNS = {"item_id": "str"}


class Checked(NamedTuple):
    """What the expectations are about."""

    frames: dict[str, Any]  # `interactions`, `items` and `users`: of pandas, or of Spark
    rows: dict[str, int]
    usable: set[str]  # see `usable_columns`
    sha256: dict[str, str]  # of interactions and items


class _Indexed(NamedTuple):
    """Interactions with ids as indices into the distinct ids; -1 stands for an id that is null or blank."""

    user_ids: pa.Array
    item_ids: pa.Array
    users: np.ndarray  # (n,) int32
    items: np.ndarray  # (n,) int32
    timestamp: pa.Array  # (n,) int64 or null
    events: np.ndarray  # (n,) index of the event type; all 0 where there are none


def typed(table: pa.Table) -> pa.Table:
    """The table without schema metadata, in one chunk; texts as large_string, which has no limit of 2 GB per chunk.

    A column without a single value has no type and counts as text.
    """
    fields = [(field.name, pa.large_string() if _is_text(field.type) else field.type) for field in table.schema]
    return table.cast(pa.schema(fields)).combine_chunks()


def usable_columns(interactions: pa.Table, items: pa.Table) -> set[str]:
    """Names of columns: TABLE.COLUMN if it has the expected type, TABLE.COLUMN? if it exists."""
    usable = set()
    for name, table in (("interactions", interactions), ("items", items)):
        for field in table.schema:
            usable.add(f"{name}.{field.name}?")
            if _has_kind(field.type, "int64" if field.name == "timestamp" else "str"):
                usable.add(f"{name}.{field.name}")
    return usable


def checked(
    interactions: pa.Table, items: pa.Table, text_columns: Sequence[str], k_core: int, times: tuple[int, int]
) -> Checked:
    """The tables, as `typed` makes them, with the columns of `frames`."""
    hashes = {"interactions": sha256([interactions]), "items": sha256([items])}
    made = frames(interactions, items, text_columns, k_core, times)
    rows = {name: len(frame) for name, frame in made.items()}
    return Checked(made, rows, usable_columns(interactions, items), hashes)


def frames(
    interactions: pa.Table, items: pa.Table, text_columns: Sequence[str], k_core: int, times: tuple[int, int]
) -> dict[str, pd.DataFrame]:
    """Make the frames `interactions`, `items` and `users` (one row per user), with the computed columns.

    interactions: unknown_item_id, repeated_interaction, time_out_of_range (before or after `times`).
    items: item_without_text, left_after_k_core (0 or 1).
    users: user_with_one_time (of users with two interactions or more), left_after_k_core (0 or 1).
    """
    indexed = _index(interactions)
    repeated = _repeated(indexed)
    known = known_items(items)
    items_left, users_left = _left_after_k_core(indexed, repeated, known, k_core)
    small = {
        "items": items_frame(items, text_columns, indexed.item_ids.take(pa.array(items_left))),
        "users": _users_frame(indexed, users_left),
    }
    named = _named(indexed, repeated)
    del indexed, repeated  # free them before the largest frame is made
    pa.default_memory_pool().release_unused()
    found = {"interactions": _interactions_frame(interactions, named, known, times), **small}
    pa.default_memory_pool().release_unused()
    return found


def known_items(items: pa.Table) -> pa.Array:
    """Ids of the items, as `typed` makes them; blank ones are null."""
    return _column(items, "item_id", "str")


def one_row(drift: Drift) -> pd.DataFrame:
    """The figures as a frame of one row, a column per figure."""
    import pandas as pd

    return pd.DataFrame([drift._asdict()])


def sha256(tables: Iterable[pa.Table]) -> str:
    """Hex digest of the columns' names, types and values, in row order; how the rows are spread does not count."""
    sink = _Hashed()
    with ExitStack() as stack:
        writer = None
        for block in files.in_blocks(map(typed, tables), ROWS_PER_BLOCK):
            if writer is None:
                writer = stack.enter_context(pa.ipc.new_stream(pa.PythonFile(sink, "w"), block.schema))
            writer.write_table(block)
    return sink.digest.hexdigest()


class _Hashed(io.RawIOBase):
    """A file that keeps only the SHA-256 of what is written to it."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return len(data)


def _index(interactions: pa.Table) -> _Indexed:
    def index(ids: pa.DictionaryArray) -> np.ndarray:
        return pc.fill_null(ids.indices, -1).to_numpy(zero_copy_only=False)

    users = _column(interactions, "user_id", "str").dictionary_encode()
    items = _column(interactions, "item_id", "str").dictionary_encode()
    timestamp = _column(interactions, "timestamp", "int64")
    events = np.zeros(interactions.num_rows, np.int64)
    if "event" in interactions.column_names:
        events = index(pc.dictionary_encode(_column(interactions, "event", "str")))
    return _Indexed(users.dictionary, items.dictionary, index(users), index(items), timestamp, events)


def _is_text(found: pa.DataType) -> bool:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(is_kind(found) for is_kind in kinds)


def _has_kind(found: pa.DataType, kind: str) -> bool:
    return pa.types.is_int64(found) if kind == "int64" else pa.types.is_large_string(found)


def _column(table: pa.Table, name: str, kind: str) -> pa.Array:
    """A column to compute with: blank texts become nulls; a missing column, or one of another kind, is all nulls."""
    if name not in table.column_names or not _has_kind(table[name].type, kind):
        return pa.nulls(table.num_rows, pa.int64() if kind == "int64" else pa.large_string())
    column = table[name].combine_chunks()
    if kind == "int64":
        return column
    return pc.if_else(pc.not_equal(pc.utf8_trim_whitespace(column), ""), column, None)


def _repeated(indexed: _Indexed) -> np.ndarray:
    """(n,) bool: an earlier row has the same user, item, time and event."""
    times = pc.fill_null(indexed.timestamp, 0).to_numpy(zero_copy_only=False)
    timed = pc.is_valid(indexed.timestamp).to_numpy(zero_copy_only=False)  # a time of 0 is one
    pairs = indexed.users * np.int64(len(indexed.item_ids) + 1) + indexed.items + 1
    # Equal rows become neighbours; the sort is stable, so the earlier one comes first.
    order = np.lexsort((indexed.events, times, timed, pairs))
    later, earlier = order[1:], order[:-1]
    seen = np.zeros(len(order), bool)
    alike = (pairs[later] == pairs[earlier]) & (times[later] == times[earlier]) & timed[earlier]
    seen[later] = alike & (indexed.events[later] == indexed.events[earlier])
    return seen & (indexed.users >= 0) & (indexed.items >= 0) & timed


def _left_after_k_core(
    indexed: _Indexed, repeated: np.ndarray, known: pa.Array, k_core: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the items, and of the users, that the k-core keeps. known: ids of the items table."""
    is_known = np.append(pc.is_in(indexed.item_ids, value_set=known).to_numpy(zero_copy_only=False), False)
    complete = (indexed.users >= 0) & is_known[indexed.items] & ~repeated  # no id: -1, the last of `is_known`
    moments = pc.fill_null(indexed.timestamp, 0).to_numpy(zero_copy_only=False)
    core, _ = filter_k_core(InteractionLog(indexed.users[complete], indexed.items[complete], moments[complete]), k_core)
    return np.unique(core.items), np.unique(core.users)


class _Named(NamedTuple):
    """Row numbers, and the text that shows each row."""

    rows: np.ndarray
    texts: list[str | None]


def _named(indexed: _Indexed, repeated: np.ndarray) -> _Named:
    """Show the interactions that repeat an earlier one as "user | item | time"."""
    rows = np.flatnonzero(repeated)
    parts = (
        indexed.user_ids.take(pa.array(indexed.users[rows])),
        indexed.item_ids.take(pa.array(indexed.items[rows])),
        pc.cast(indexed.timestamp.take(pa.array(rows)), pa.large_string()),
    )
    return _Named(rows, pc.binary_join_element_wise(*parts, pa.scalar(" | ", pa.large_string())).to_pylist())


def _interactions_frame(table: pa.Table, repeated: _Named, known: pa.Array, times: tuple[int, int]) -> pd.DataFrame:
    import pandas as pd

    frame = _to_pandas(table, INTERACTION_COLUMNS)
    item_id, timestamp = _column(table, "item_id", "str"), _column(table, "timestamp", "int64")
    frame["unknown_item_id"] = pc.if_else(pc.is_in(item_id, value_set=known), None, item_id).to_pandas()
    del item_id
    pa.default_memory_pool().release_unused()
    # Great Expectations' own range check calls Python once per value.
    inside = pc.and_(pc.greater_equal(timestamp, times[0]), pc.less_equal(timestamp, times[1]))
    outside = pc.if_else(inside, None, timestamp)
    frame["time_out_of_range"] = outside.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    named = pd.Series([None] * len(frame), dtype=object)
    named.iloc[repeated.rows] = repeated.texts
    frame["repeated_interaction"] = named
    return frame


def items_frame(table: pa.Table, text_columns: Sequence[str], items_left: pa.Array) -> pd.DataFrame:
    """One row per item. items_left: ids that the k-core keeps."""
    frame = _to_pandas(table, ITEM_COLUMNS | dict.fromkeys(text_columns, "str"))
    item_id = _column(table, "item_id", "str")
    with_text = pa.array(np.zeros(table.num_rows, bool))
    for column in text_columns:
        with_text = pc.or_(with_text, pc.is_valid(_column(table, column, "str")))
    named = pc.fill_null(item_id, "(an item without item_id)")
    frame["item_without_text"] = pc.if_else(with_text, None, named).to_pandas()
    frame["left_after_k_core"] = pc.cast(pc.is_in(item_id, value_set=items_left), pa.int64()).to_pandas()
    return frame


def _users_frame(indexed: _Indexed, users_left: np.ndarray) -> pd.DataFrame:
    """One row per user with a usable id."""
    import pandas as pd

    times = indexed.timestamp.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    spans = times.groupby(indexed.users).agg(["min", "max", "size"]).reindex(range(len(indexed.user_ids)))
    one_time = ((spans["size"] >= 2) & (spans["min"] == spans["max"])).fillna(False).to_numpy(bool)
    left = np.zeros(len(indexed.user_ids), np.int64)
    left[users_left] = 1
    return pd.DataFrame(
        {
            "user_id": indexed.user_ids.to_pandas(),
            "user_with_one_time": pc.if_else(pa.array(one_time), indexed.user_ids, None).to_pandas(),
            "left_after_k_core": left,
        }
    )


def _to_pandas(table: pa.Table, columns: dict[str, str]) -> pd.DataFrame:
    """The columns that exist. Times are nullable integers: a null must not turn them into floats."""
    import pandas as pd

    data = {}
    for name, kind in columns.items():
        if name in table.column_names:
            usable = _has_kind(table[name].type, kind)
            values = _column(table, name, kind) if usable else table[name].combine_chunks()
            data[name] = values.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
            del values
            pa.default_memory_pool().release_unused()
    return pd.DataFrame(data, index=pd.RangeIndex(table.num_rows), copy=False)
