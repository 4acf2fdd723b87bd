"""A data set on disk: one file, or a folder of parts, of Parquet, CSV or JSON lines.

Parts are read in the order of their names, in which numbers count as numbers (part.2 before part.10), since the order
of the rows decides between equal times. What a folder's name says (`brand=Nord`) is a column.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from unigrec.base.errors import UnigrecError
from unigrec.data.sources.csv_files import read_csv
from unigrec.data.sources.files import readable, refuse_empty
from unigrec.data.sources.json_files import read_json_lines
from unigrec.data.sources.plain_text import PACKED_SUFFIXES

FORMATS = {
    **dict.fromkeys((".parquet", ".parq", ".pq"), "Parquet"),
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt"), "CSV"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "JSON lines"),
}
ENDINGS = FORMATS | {f"{ending}{packed}": kind for packed in PACKED_SUFFIXES for ending, kind in FORMATS.items()}
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
# Names that tell a table format, in which a log and not the folder says which files hold live rows.
TABLE_LOGS = {
    "_delta_log": "a Delta table",
    ".hoodie": "a Hudi table",
    ".hoodie_partition_metadata": "part of a Hudi table",
    "_spark_metadata": "the output of a Spark stream",
    "version-hint.text": "an Iceberg table",
}
TABLE_LOG_PATTERNS = (
    (re.compile(r".*\.metadata\.json(\.gz)?$"), "an Iceberg table"),
    (re.compile(r"(base|delta|delete_delta)_\d{7,}(_\d+)*(_v\d+)?$"), "a transactional Hive table"),
    (re.compile(r"manifest-list-[0-9a-f-]+(-\d+)?$"), "a Paimon table"),
)


class Part(NamedTuple):
    """One file of a data set, and the columns that the folders above it name."""

    file: Path
    format: str
    folders: dict[str, str | None]


def format_of(file: Path) -> str | None:
    """Parquet, CSV or JSON lines by the end of a name, packed or not; None for another."""
    return ENDINGS.get(split_ending(file.name)[1])


def split_ending(name: str) -> tuple[str, str]:
    """A name without the ending of a format, packed or not, and the ending in lower case; "" if there is none."""
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)], ending


def parts_of(path: Path) -> list[Part]:
    """The file itself, or the parts in a folder, in order.

    Raises:
        UnigrecError: the folder holds no part, parts of several formats, or a table whose log says which files count.
    """
    refuse_table_logs(path)
    if not path.is_dir():
        return [Part(path, format_of(path) or "CSV", {})]
    asked = format_of(path)
    found: list[Part] = []
    for file in sorted(path.rglob("*"), key=lambda file: natural(file.relative_to(path))):
        inside = file.relative_to(path)
        # A job gives files and folders such names until it is done.
        if any(name.startswith((".", "_")) for name in inside.parts) or not file.is_file():
            continue
        kind = format_of(file)
        if kind is not None and asked in (kind, None):
            found.append(Part(file, kind, _named_by_folders(inside.parts[:-1])))
    if not found:
        wanted = {"Parquet": "*.parquet", "CSV": "*.csv", "JSON lines": "*.jsonl"}.get(asked or "", "data")
        raise UnigrecError(f"{path}: a folder without {wanted} parts; write it again")
    kinds = sorted({part.format for part in found})
    if len(kinds) > 1:
        raise UnigrecError(f"{path}: holds parts of {' and '.join(kinds)}; keep those of one format")
    return found


def natural(path: Path) -> tuple:
    """A key that sorts paths as people count: by folder, numbers as numbers."""
    names = [
        [(1, int(piece), "") if piece.isdecimal() else (0, 0, piece) for piece in re.split(r"(\d+)", name)]
        for name in path.parts
    ]
    return names, path.parts


def _named_by_folders(names: Iterable[str]) -> dict[str, str | None]:
    """`brand=Nord` -> {"brand": "Nord"}; letters that a file system refuses are written as %2F."""
    pairs = [name.split("=", 1) for name in names if "=" in name]
    return {unquote(key): None if value == HIVE_NULL else unquote(value) for key, value in pairs if key}


def refuse_table_logs(path: Path) -> None:
    """Raises UnigrecError if a file or folder belongs to a table whose log says which files are live."""
    above = [path.parent] if path.parent != path else []
    for folder in [path, *above] if path.is_dir() else above:
        deep = folder == path
        for name in folder.rglob("*") if deep else folder.iterdir():
            what = _log_of_table(name)
            if what is not None:
                raise UnigrecError(
                    f"{folder}: is {what} ({name.name}): its log, not the folder, says which of its files hold live "
                    "rows, and the others would be read too. Export it as plain Parquet, for example by Spark"
                )


def _log_of_table(path: Path) -> str | None:
    if path.name in TABLE_LOGS:
        return TABLE_LOGS[path.name]
    for pattern, what in TABLE_LOG_PATTERNS:
        if pattern.match(path.name):
            return what
    if path.name.startswith("_committed_") and path.is_file():  # of Databricks
        try:
            removed = json.loads(path.read_text(encoding="utf-8")).get("removed", [])
        except (ValueError, OSError, AttributeError):
            return "a folder with a damaged log of commits"
        if any((path.parent / str(name)).exists() for name in removed):
            return "a folder of Databricks with removed files"
    return None


def read_part(
    part: Part,
    choose: Callable[[list[str]], list[str]],
    notes: list[str],
    required: tuple[str, ...] = (),
    limit: int | None = None,
) -> pa.Table:
    """Read the columns that `choose` picks, given all names; those of folders come last. limit: the first rows alone.

    Raises:
        UnigrecError: the part is empty, damaged or of another format.
    """
    refuse_empty(part.file)
    from_folders: list[str] = []

    def choose_in_file(names: list[str]) -> list[str]:
        extra = [name for name in part.folders if name not in names]
        chosen = choose([*names, *extra])
        from_folders.extend(name for name in chosen if name in extra)
        return [name for name in chosen if name not in extra]

    if part.format == "Parquet":
        # ParquetFile, not read_table: the latter turns a folder named `a=b` on the way into a column.
        with readable(part.file, "Parquet"), pq.ParquetFile(part.file) as file:
            table = _read_parquet(file, choose_in_file(file.schema_arrow.names), limit)
    elif part.format == "JSON lines":
        with readable(part.file, "JSON lines"):
            table = read_json_lines(part.file, choose_in_file, limit)
    else:
        with readable(part.file, "CSV"):
            table = read_csv(part.file, choose_in_file, notes, required=required, limit=limit)
    for name in from_folders:
        table = table.append_column(name, pa.array([part.folders[name]] * table.num_rows, pa.string()))
    return table


def read_in_batches(
    part: Part, choose: Callable[[list[str]], list[str]], notes: list[str], required: tuple[str, ...], rows: int | None
) -> Iterator[pa.Table]:
    """As `read_part`, in tables of at most `rows` rows: of Parquet. Other formats, and without `rows`, as one table."""
    if part.format != "Parquet" or rows is None:
        yield read_part(part, choose, notes, required=required)
        return
    refuse_empty(part.file)
    with readable(part.file, "Parquet"), pq.ParquetFile(part.file) as file:
        inside = file.schema_arrow.names
        chosen = choose([*inside, *(name for name in part.folders if name not in inside)])
        for batch in file.iter_batches(rows, columns=[name for name in chosen if name in inside], use_threads=False):
            table = pa.Table.from_batches([batch])
            for name in chosen:
                if name not in inside:
                    table = table.append_column(name, pa.array([part.folders[name]] * table.num_rows, pa.string()))
            yield table


def part_schema(part: Part, choose: Callable[[list[str]], list[str]], required: tuple[str, ...]) -> pa.Schema:
    """The columns that `choose` picks and their types: of Parquet read from the footer, else from the first rows.

    Raises:
        UnigrecError: as `read_part`.
    """
    if part.format != "Parquet":
        return read_part(part, choose, [], required, limit=1).schema
    refuse_empty(part.file)
    with readable(part.file, "Parquet"), pq.ParquetFile(part.file) as file:
        inside = file.schema_arrow
        folders = [pa.field(name, pa.string()) for name in part.folders if name not in inside.names]
        names = choose([*inside.names, *(field.name for field in folders)])
        fields = {field.name: field for field in (*folders, *inside)}
        return pa.schema([fields[name] for name in names])


def _read_parquet(file: pq.ParquetFile, names: list[str], limit: int | None) -> pa.Table:
    if limit is None:
        return file.read(columns=names)
    batch = next(file.iter_batches(batch_size=limit, columns=names), None)
    return file.schema_arrow.empty_table().select(names) if batch is None else pa.Table.from_batches([batch])
