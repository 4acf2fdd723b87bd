"""DuckDB in memory: it reads texts as tables and answers queries, and it can write nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

SETTINGS = {
    "TimeZone": "UTC",  # a text without a zone means the same on every machine
    "preserve_insertion_order": True,  # the order of rows counts where times are equal
    "temp_directory": "",  # a large query fails for want of memory, rather than write to the disk
    "enable_progress_bar": False,
    "python_enable_replacements": False,  # a query names files and tables, not our variables
    "autoinstall_known_extensions": False,
    "allow_community_extensions": False,
}


@contextmanager
def connection(*, external: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to an empty database in memory. external: whether it may read files and addresses."""
    import duckdb  # here: a run that reads Parquet alone does not load it

    database = duckdb.connect(":memory:")
    try:
        for name, value in SETTINGS.items():
            database.execute(f"SET {name} = {quoted(value) if isinstance(value, str) else value}")
        if not external:
            database.execute("SET enable_external_access = false")
        yield database
    finally:
        database.close()


def query_tables(query: str, external: bool = False, **tables: pa.Table | pa.RecordBatchReader) -> pa.Table:
    """Answer one of our own queries over Arrow tables, which it names as the arguments are named; rows keep order."""
    with connection(external=external) as database:
        for name, table in tables.items():
            database.register(name, table)
        return database.sql(query).to_arrow_table()


def quoted(text: str) -> str:
    """A text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def plain_file(path: Path) -> str:
    """The first arguments of read_csv and read_json: this file alone, as it is, whatever its name and folders say.

    No letter of the path is a wildcard, no ending tells a compression, and no folder named `a=b` is a column.
    """
    return f"{quoted(without_wildcards(path))}, hive_partitioning = false, compression = 'none'"


def without_wildcards(path: Path) -> str:
    """A path as DuckDB reads it where it would take letters of it for wildcards."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))


def identifier(name: str) -> str:
    """A name of a column or table as SQL writes it, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'
