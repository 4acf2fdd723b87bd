"""Tables of an SQLite file, copied into DuckDB's memory by Python's own driver: it needs no extension."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from unigrec.base.errors import UnigrecError
from unigrec.data.sources.duck import identifier
from unigrec.data.sources.values import EXACT_BELOW

if TYPE_CHECKING:
    import duckdb

MAGIC = b"SQLite format 3\x00"
BATCH_ROWS = 65_536  # Python objects that are kept before they become Arrow memory


def is_sqlite(file: Path) -> bool:
    """Whether a file is an SQLite database."""
    with file.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def tables_of(file: Path) -> dict[str, list[str]]:
    """Columns of each table and view of an SQLite file. Raises UnigrecError: the file is damaged."""
    try:
        source = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
        try:
            return {
                table: [row[1] for row in source.execute(f"PRAGMA table_info({identifier(table)})")]
                for table in _tables(source)
                if not table.startswith("sqlite_")
            }
        finally:
            source.close()
    except sqlite3.Error as error:
        raise UnigrecError(f"{file}: cannot be read as SQLite: {error}; copy it again") from error


def copy_sqlite(database: duckdb.DuckDBPyConnection, name: str, file: Path, queries: str) -> None:
    """Copy the tables and views that the queries mention into a schema of DuckDB, in the order of their rows.

    Raises:
        UnigrecError: the file is damaged.
    """
    database.execute(f"CREATE SCHEMA {identifier(name)}")
    try:
        source = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
        try:
            for table in _tables(source):
                if re.search(rf"(?<!\w){re.escape(table)}(?!\w)", queries, re.IGNORECASE):
                    rows = read_table(source, table)
                    database.register("rows_of_sqlite", rows)
                    copy = f"{identifier(name)}.{identifier(table)}"
                    database.execute(f"CREATE TABLE {copy} AS SELECT * FROM rows_of_sqlite")
                    database.unregister("rows_of_sqlite")
        finally:
            source.close()
    except sqlite3.Error as error:
        raise UnigrecError(f"{file}: cannot be read as SQLite: {error}; copy it again") from error


def read_table(source: sqlite3.Connection, table: str) -> pa.Table:
    """All rows of a table. SQLite types values, not columns: a column of several types becomes text.

    Text is also what whole numbers become that a float next to them would round.
    """
    cursor = source.execute(f"SELECT * FROM {identifier(table)}")
    names = [column[0] for column in cursor.description]
    batches = [list(zip(*rows, strict=True)) for rows in _batches(cursor)]
    columns = {}
    for at, name in enumerate(names):
        values = [batch[at] for batch in batches]
        columns[name] = pa.chunked_array([_array(part, _type_of(values)) for part in values] or [pa.nulls(0)])
    return pa.table(columns)


def _tables(source: sqlite3.Connection) -> list[str]:
    found = source.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY rowid")
    return [name for (name,) in found]


def _batches(cursor: sqlite3.Cursor) -> Iterator[list[tuple]]:
    while rows := cursor.fetchmany(BATCH_ROWS):
        yield rows


def _type_of(batches: list[tuple[Any, ...]]) -> pa.DataType:
    kinds = {type(value) for batch in batches for value in batch} - {type(None)}
    if kinds <= {int}:
        return pa.int64()
    if kinds <= {int, float}:
        wholes = (value for batch in batches for value in batch if isinstance(value, int))
        return pa.float64() if all(abs(value) < EXACT_BELOW[64] for value in wholes) else pa.string()
    return pa.binary() if kinds == {bytes} else pa.string()


def _array(values: tuple[Any, ...], kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        values = tuple(value if value is None or isinstance(value, str) else _text(value) for value in values)
    return pa.array(values, kind)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
