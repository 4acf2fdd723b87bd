"""The source `sql`: one query for interactions and one for items, answered by DuckDB over anything that it reads.

The queries run in memory on one thread, so that the same data gives the same rows in the same order, and they can
write nothing: only a single SELECT is run. Credentials come from the environment and appear in no message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from unigrec.base.errors import UnigrecError
from unigrec.base.masking import masked
from unigrec.config.schema import IngestParams
from unigrec.data.sources.conditions import columns_of
from unigrec.data.sources.datasets import Part, format_of, refuse_table_logs
from unigrec.data.sources.duck import connection, identifier, quoted
from unigrec.data.sources.served import NONE_SERVED, ServedTypes, served_of
from unigrec.data.sources.source import Source, provenance
from unigrec.data.sources.sqlite import copy_sqlite, is_sqlite
from unigrec.data.sources.tables import Columns, interactions_of, items_of

if TYPE_CHECKING:
    import duckdb

EXTENSIONS = {"postgres": "postgres", "mysql": "mysql"}  # address begins with the name and a colon
S3_SETTINGS = {
    "KEY_ID": "AWS_ACCESS_KEY_ID",
    "SECRET": "AWS_SECRET_ACCESS_KEY",
    "SESSION_TOKEN": "AWS_SESSION_TOKEN",
    "REGION": "AWS_REGION",
    "ENDPOINT": "AWS_ENDPOINT_URL",
}
READS_TABLE_LOGS = re.compile(r"\b(delta_scan|iceberg_scan)\b", re.IGNORECASE)
CSV_SAMPLE_ROWS = 20_480  # by which DuckDB decides on types
CSV_BY_GUESS = re.compile(r"\.(csv|tsv)|read_csv", re.IGNORECASE)
TYPES_GIVEN = re.compile(r"all_varchar|types|columns", re.IGNORECASE)


def load_sql(params: IngestParams, text_columns: Sequence[str], served_types: ServedTypes = NONE_SERVED) -> Source:
    """Answer both queries and read their columns as the folder source does.

    Raises:
        UnigrecError: a query is not a single SELECT, fails, has no rows or lacks a column, or an extension is missing.
    """
    notes: list[str] = []
    columns = Columns.of(params)
    queries = {"interactions": params.sql.interactions, "items": params.sql.items}
    with connection() as database:
        database.execute("SET threads = 1")
        _attach(database, params.sql.attach, queries)
        if any("s3://" in query for query in queries.values()):
            _use_s3(database)
        database.execute("SET lock_configuration = true")
        needed = (*columns.of_interactions(), *(columns_of(columns.where) if columns.where else ()))
        log = _answer(database, "interactions", queries["interactions"], needed, others=False)
        catalogue = _answer(database, "items", queries["items"], (columns.items_id,), others=True)
    for (part, table), names in ((log, (columns.user_id, columns.item_id)), (catalogue, (columns.items_id,))):
        notes += _lost_zeros(str(part.file), queries[part.file.suffix[1:]], table, names)
    interactions = interactions_of([log], columns, notes)
    items, dropped = items_of([catalogue], columns, text_columns)
    extra = {"queries": {name: masked(query) for name, query in queries.items()}, "dropped_item_columns": dropped}
    served = served_of([catalogue], served_types, columns.items_id) if served_types else None
    return Source(
        interactions, items, provenance("sql", interactions.num_rows, items.num_rows, **extra), tuple(notes), served
    )


def _answer(
    database: duckdb.DuckDBPyConnection, name: str, query: str, needed: Sequence[str], others: bool
) -> tuple[Part, pa.Table]:
    """Run one query; with `others`, all of its columns are kept."""
    import duckdb

    where = f"ingest.sql.{name}"
    try:
        statements = duckdb.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise UnigrecError(f"{where}: must be a single SELECT; what reads data writes nothing")
        _refuse_logs_of_tables(query)
        answer = database.sql(statements[0].query.rstrip().rstrip(";"))
        names = answer.columns
        by_lower = {column.lower(): column for column in names}
        for column in needed:
            if column.lower() not in by_lower:
                raise UnigrecError(f"{where}: no column {column!r} (found: {', '.join(names)}); name it so, with AS")
        kept = {by_lower[column.lower()]: column for column in needed}
        if others:
            kept = {column: column for column in names} | kept
        picked = ", ".join(f"{identifier(own)} AS {identifier(ours)}" for own, ours in kept.items())
        table = answer.project(picked).to_arrow_table()
    except duckdb.Error as error:
        detail = str(error).strip().splitlines()[0]
        raise UnigrecError(
            masked(f"{where}: {detail}; correct the query, or install the extension that it needs")
        ) from None
    if table.num_rows == 0:
        raise UnigrecError(f"{where}: answered with no rows; a model needs data to learn from")
    return Part(Path(where), "Parquet", {}), table


def _lost_zeros(where: str, query: str, table: pa.Table, names: Sequence[str]) -> list[str]:
    """A remark if ids came out of CSV as numbers: by its first rows DuckDB decides so, and a later 007 becomes 7."""
    if table.num_rows <= CSV_SAMPLE_ROWS or not CSV_BY_GUESS.search(query) or TYPES_GIVEN.search(query):
        return []
    numbers = [name for name in names if pa.types.is_integer(table.schema.field(name).type)]
    return [
        f"{where}: column {name!r} was read as numbers: if ids begin with zeros, add all_varchar = true to read_csv"
        for name in numbers
    ]


def _refuse_logs_of_tables(query: str) -> None:
    """Raises UnigrecError if a path in a query belongs to a table whose log says which files are live."""
    if READS_TABLE_LOGS.search(query):
        return
    for path in re.findall(r"'([^']+)'", query) + re.findall(r'"([^"]+)"', query):
        if "://" in path or not (format_of(Path(path)) or re.search(r"[*?\[]", path)):
            continue
        base = Path(re.split(r"[*?\[]", path)[0])
        if re.search(r"[*?\[]", path) and not path.split("*")[0].endswith("/"):
            base = base.parent
        if base.exists():
            refuse_table_logs(base)


def attached_file(address: str) -> Path | None:
    """The file that an address of `ingest.sql.attach` names; None if it is a server's."""
    kind, _, rest = address.partition(":")
    return None if kind in EXTENSIONS else Path(rest if kind == "sqlite" else address)


def _attach(database: duckdb.DuckDBPyConnection, attached: dict[str, str], queries: dict[str, str]) -> None:
    """Make databases known by name, to be read only. Raises UnigrecError for a missing file or extension."""
    import duckdb

    for name, address in attached.items():
        (kind, _, rest), path = address.partition(":"), attached_file(address)
        try:
            if path is None:
                options = f"(TYPE {EXTENSIONS[kind]}, READ_ONLY)"
                database.execute(f"ATTACH {quoted(rest)} AS {identifier(name)} {options}")
                continue
            if not path.is_file():
                raise UnigrecError(f"ingest.sql.attach: {name}: {path}: no such file")
            if is_sqlite(path):
                copy_sqlite(database, name, path, " ".join(queries.values()))
            else:
                database.execute(f"ATTACH {quoted(str(path))} AS {identifier(name)} (READ_ONLY)")
        except duckdb.Error as error:
            detail = str(error).strip().splitlines()[0]
            raise UnigrecError(
                masked(
                    f"ingest.sql.attach: {name}: {detail}; an extension is installed once: "
                    f"python -c \"import duckdb; duckdb.execute('INSTALL {EXTENSIONS.get(kind, kind)}')\""
                )
            ) from None


def _use_s3(database: duckdb.DuckDBPyConnection) -> None:
    """Give DuckDB the credentials of the environment. Raises UnigrecError if its extension is missing."""
    import duckdb

    try:
        database.execute("LOAD httpfs")
    except duckdb.Error:
        raise UnigrecError(
            "s3://: DuckDB's extension httpfs is not installed; install it once: python -c \"import duckdb; "
            "duckdb.execute('INSTALL httpfs')\""
        ) from None
    found = {key: os.environ[variable] for key, variable in S3_SETTINGS.items() if os.environ.get(variable)}
    if "ENDPOINT" in found:
        found["USE_SSL"] = str(not found["ENDPOINT"].startswith("http://")).lower()
        found["ENDPOINT"] = found["ENDPOINT"].split("://", 1)[-1]
    if found:
        settings = ", ".join(f"{key} {quoted(value)}" for key, value in found.items())
        try:
            database.execute(f"CREATE SECRET environment (TYPE s3, {settings})")
        except duckdb.Error:
            raise UnigrecError("s3://: DuckDB refused the credentials of the environment (AWS_...)") from None
