"""`ingest.where`: an SQL condition on the rows of interactions, answered by DuckDB without access to files."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from unigrec.base.errors import UnigrecError
from unigrec.data.sources.deciding import PADDED
from unigrec.data.sources.duck import connection
from unigrec.data.sources.times import WHOLE
from unigrec.data.sources.values import all_numbers, is_text, plain

TABLE, ROW = "interactions", "unigrec_row"


def columns_of(where: str) -> tuple[str, ...]:
    """Names of the columns that a condition uses. Raises UnigrecError if it is no condition of SQL."""
    references = (node for node in _nodes(_tree(where)) if node.get("class") == "COLUMN_REF")
    return tuple(dict.fromkeys(node["column_names"][-1] for node in references))


def sees_other_rows(where: str) -> bool:
    """Whether a condition asks about further rows than its own: with a subquery or a window. Raises as `columns_of`."""
    return any(node.get("class") in ("SUBQUERY", "WINDOW") for node in _nodes(_tree(where)))


@functools.cache
def _tree(where: str) -> dict[str, Any]:
    """The condition, parsed. Raises UnigrecError."""
    with connection(external=False) as database:
        query = f"SELECT 1 FROM {TABLE} WHERE (\n{where}\n)"
        text = database.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0]
    tree: dict[str, Any] = json.loads(text)
    if tree["error"] or len(tree["statements"]) != 1:
        reason = tree.get("error_message", "it is more than one statement")
        raise UnigrecError(f"ingest.where = {where!r}: no condition of SQL: {reason}")
    return tree


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _nodes(child)


def rows_where(
    table: pa.Table, where: str, *, ids: set[str], file: str, next_to: Mapping[str, pa.ChunkedArray]
) -> pa.Table:
    """The rows that meet a condition, in their order.

    Text of which every value is a number is compared as a number (formats such as CSV have no types), but not the
    columns `ids`, and not codes: whole numbers of which one of the longest has a zero in front, as a postcode. If these
    cannot be compared as text, they are numbers too.

    next_to: texts of other rows, per column: they count in whether every value is a number.

    Raises:
        UnigrecError: a column of the condition is missing, or it compares what cannot be compared.
    """
    import duckdb

    try:
        return _met(table, where, ids=ids, file=file, next_to=next_to, keeps_zeros=True)
    except UnigrecError as error:
        if not isinstance(error.__cause__, duckdb.BinderException):
            raise
        try:
            return _met(table, where, ids=ids, file=file, next_to=next_to, keeps_zeros=False)
        except UnigrecError:
            raise error from None


def _met(
    table: pa.Table, where: str, *, ids: set[str], file: str, next_to: Mapping[str, pa.ChunkedArray], keeps_zeros: bool
) -> pa.Table:
    """As `rows_where`. keeps_zeros: codes with zeros in front are text."""
    import duckdb

    asked: dict[str, pa.ChunkedArray | pa.Array] = {}
    for name in table.column_names:
        column = plain(table[name])
        if name not in ids and is_text(column.type):
            others = next_to.get(name, pa.chunked_array([], column.type))
            whole = pa.chunked_array([*others.chunks, *column.chunks], column.type).cast(pa.string())
            column = _as_numbers(whole, keeps_zeros).slice(len(others))
        asked[name] = column
    order = ""
    if sees_other_rows(where):  # a window sorts the rows, and joins may
        asked[ROW], order = pa.array(range(table.num_rows), pa.int64()), f"ORDER BY {ROW}"
    query = f"SELECT coalesce((\n{where}\n), false) AS met FROM {TABLE} {order}"
    with connection(external=False) as database:
        database.register(TABLE, pa.table(asked))
        try:
            met = database.sql(query).to_arrow_table()["met"]
        except duckdb.Error as error:
            detail = str(error).strip().splitlines()[0]
            raise UnigrecError(
                f"{file}: ingest.where = {where!r} cannot be answered: {detail}; its columns: "
                f"{', '.join(table.column_names)}"
            ) from error
    if len(met) != table.num_rows:
        raise UnigrecError(
            f"{file}: ingest.where = {where!r} has one answer for all rows; write a condition on each row, and an "
            f"aggregate as (SELECT max(x) FROM {TABLE})"
        )
    return table.filter(met)


def _as_numbers(column: pa.ChunkedArray, keeps_zeros: bool) -> pa.ChunkedArray:
    """Text as numbers where all of it is; with `keeps_zeros`, where these are no codes with zeros in front."""
    trimmed = pc.utf8_trim_whitespace(column)
    trimmed = pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)
    if not all_numbers(column) or (keeps_zeros and _are_codes(trimmed)):
        return column
    if pc.all(pc.match_substring_regex(trimmed, WHOLE)).as_py():
        try:
            return pc.replace_substring_regex(trimmed, r"^\+", "").cast(pa.int64())
        except pa.ArrowInvalid:  # more digits than fit
            pass
    return trimmed.cast(pa.float64())


def _are_codes(texts: pa.ChunkedArray) -> bool:
    """Whether one of the longest whole numbers begins with a zero: `01` to `120` count something."""
    padded = texts.filter(pc.match_substring_regex(texts, PADDED))
    longest = pc.max(pc.utf8_length(texts)).as_py()
    return len(padded) > 0 and pc.max(pc.utf8_length(padded)).as_py() == longest
