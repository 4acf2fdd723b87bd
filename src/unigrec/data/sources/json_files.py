"""JSON lines, or one list of objects, packed or not. Scalars become text as they are written, lists their texts."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa

from unigrec.base.errors import UnigrecError
from unigrec.data.sources.duck import connection, identifier, plain_file, quoted
from unigrec.data.sources.files import refuse_empty
from unigrec.data.sources.plain_text import encoding_of, is_packed, write_plain
from unigrec.data.sources.values import leaves

LARGEST_RECORD = 2**24  # bytes
NUMBERED = re.compile(r"(.+)_\d+")


def differ_in_case(file: Path, key: str) -> UnigrecError:
    return UnigrecError(f"{file}: another key differs from {key!r} in case alone; write one of them everywhere")


def read_json_lines(file: Path, choose: Callable[[list[str]], list[str]], limit: int | None = None) -> pa.Table:
    """Read the columns that `choose` picks from the keys of all records; text, or lists of texts; `limit`: first rows.

    Raises:
        UnigrecError: the file is empty, damaged, cut off, or holds something else than objects.
    """
    import duckdb

    refuse_empty(file)
    with tempfile.TemporaryDirectory(prefix="unigrec.") as folder, connection() as database:
        encoding, plain = encoding_of(file), file
        if is_packed(file) or encoding != "utf-8":
            plain = Path(folder) / "plain.json"
            write_plain(file, encoding, plain)
        options = f"format = 'auto', maximum_object_size = {LARGEST_RECORD}"
        scan = f"read_json({plain_file(plain)}, {options}"
        try:
            found = database.sql(f"DESCRIBE SELECT * FROM {scan}, sample_size = -1, maximum_depth = 1)").fetchall()
            names = [name for name, *_ in found]
            scan_keys = (
                f"SELECT DISTINCT unnest(json_keys(json)) FROM read_json_objects({plain_file(plain)}, {options})"
            )
            keys = _keys(names, lambda: (key for (key,) in database.sql(scan_keys).fetchall()))
            chosen = choose(keys)
            if repeated := [name for name in chosen if keys.count(name) > 1]:
                raise differ_in_case(file, repeated[0])
            columns = ", ".join(f"{quoted(name)}: 'JSON'" for name in chosen)
            picked = ", ".join(f"{identifier(name)}->>'$', json_type({identifier(name)})" for name in chosen)
            first = "" if limit is None else f" LIMIT {limit}"
            read = database.sql(f"SELECT {picked} FROM {scan}, columns = {{{columns}}}){first}").to_arrow_table()
        except duckdb.Error as error:
            detail = str(error).strip().splitlines()[0].replace(str(plain), file.name)
            raise UnigrecError(
                f"{file}: cannot be read as JSON lines, it is cut off or damaged ({detail}); write or download it again"
            ) from error
    values = {name: _column(read.column(2 * at), read.column(2 * at + 1)) for at, name in enumerate(chosen)}
    return pa.table(values)


def _keys(names: list[str], read: Callable[[], Iterable[str]]) -> list[str]:
    """The keys of the records, twice each that differs from another in case alone: DuckDB would read one as empty.

    It gives the other one a number among its `names`, `Brand_1` next to `brand`, which may be a key as well. read:
    reads those that there are.
    """
    lower = {name.lower() for name in names}
    if not any((found := NUMBERED.fullmatch(name)) and found[1].lower() in lower for name in names):
        return names
    spellings: dict[str, list[str]] = {}
    for key in sorted(read()):
        spellings.setdefault(key.lower(), []).append(key)
    alike = [key for keys in spellings.values() if len(keys) > 1 for key in keys]
    alone = {key for keys in spellings.values() if len(keys) == 1 for key in keys}
    return [name for name in names if name in alone] + alike * 2


def _column(values: pa.ChunkedArray, types: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text, or lists of texts where a value is a list or an object."""
    kinds = types.unique().to_pylist()
    if not {"ARRAY", "OBJECT"} & set(kinds):
        return values
    nested = pa.array([kind in ("ARRAY", "OBJECT") for kind in types.to_pylist()])
    rows = [
        None if text is None else list(leaves(json.loads(text) if is_nested else text))
        for text, is_nested in zip(values.to_pylist(), nested.to_pylist(), strict=True)
    ]
    return pa.chunked_array([pa.array(rows, pa.list_(pa.string()))])
