"""The interactions as one Parquet file or as a folder of partitions, which are Parquet files too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from unigrec.base import files
from unigrec.base.errors import UnigrecError

COLUMNS = {"user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.int64()}
EVENT = {"event": pa.string()}
UNFINISHED = "_temporary"  # Spark and Hadoop keep such a folder while they write


class Partition(NamedTuple):
    path: Path
    rows: int


def schema_of(with_events: bool) -> pa.Schema:
    """Columns of the interactions."""
    return pa.schema(COLUMNS | (EVENT if with_events else {}))


def read_partitions(path: Path, with_events: bool = False) -> pa.Table:
    """Read all partitions into memory. Raises UnigrecError, as `partitions_of` does."""
    if not path.is_dir():
        return files.read_table(path)
    return pa.concat_tables(interaction_tables(path, with_events))


def interaction_tables(path: Path, with_events: bool = False) -> Iterator[pa.Table]:
    """All partitions in their order, some rows at a time. Raises UnigrecError, as `partitions_of` does."""
    schema = schema_of(with_events)
    for part in partitions_of(path, with_events):
        for table in files.read_tables(part.path, schema.names):
            yield table.select(schema.names).cast(schema)


def partitions_of(path: Path, with_events: bool = False) -> list[Partition]:
    """The files below `path`, or `path` itself, with their rows; only their footers are read.

    Names that begin with `_` or `.` are passed over, as Spark does. Rows have the order of the paths.

    Raises:
        UnigrecError: nothing is there; a writer has not finished; a file is not Parquet, is truncated, or lacks a
            column or has it with another type. The error names the file.
    """
    if not path.exists():
        raise UnigrecError(f"{path}: no such file; run the stage that writes it (`dvc repro`)")
    if not path.is_dir():
        return [_checked(path, with_events)]
    if (path / UNFINISHED).exists():
        raise UnigrecError(f"{path}: it has a folder {UNFINISHED}: its writer did not finish; write the data again")
    inside = (file for file in path.rglob("*") if file.is_file())
    found = sorted(file for file in inside if not any(_hidden(part) for part in file.relative_to(path).parts))
    if foreign := [file for file in found if file.suffix != ".parquet"]:
        raise UnigrecError(f"{foreign[0]}: not named *.parquet; a folder of partitions holds nothing else")
    if not found:
        raise UnigrecError(f"{path}: no *.parquet below this folder")
    _refuse_missing(path, set(found))
    return [_checked(file, with_events) for file in found]


def _hidden(name: str) -> bool:
    return name.startswith(("_", "."))


def _refuse_missing(path: Path, found: set[Path]) -> None:
    """Compare with `_metadata`, where the writer left one: it lists the file of every row group."""
    summary = path / "_metadata"
    if not summary.is_file():
        return
    listed = _footer(summary)
    groups = (listed.row_group(number) for number in range(listed.num_row_groups))
    names = sorted({group.column(0).file_path for group in groups} - {""})
    for name in names:
        if path / name not in found:
            raise UnigrecError(f"{path / name}: this partition is missing; {summary} lists it")


def _checked(path: Path, with_events: bool) -> Partition:
    footer = _footer(path)
    schema = footer.schema.to_arrow_schema()
    for name, expected in (COLUMNS | (EVENT if with_events else {})).items():
        places = schema.get_all_field_indices(name)
        if len(places) != 1:
            raise UnigrecError(
                f"{path}: it needs one column {name!r}, and has {len(places)}; its columns: {schema.names}"
            )
        if (kind := schema.field(places[0]).type) not in _like(expected):
            raise UnigrecError(f"{path}: {name} is {kind}, and must be {expected} in every partition")
    return Partition(path, footer.num_rows)


def _like(kind: pa.DataType) -> tuple[pa.DataType, ...]:
    """Types with the same form in Parquet."""
    return (kind, pa.large_string(), pa.dictionary(pa.int32(), kind)) if kind == pa.string() else (kind,)


def _footer(path: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise UnigrecError(f"{path}: damaged or not Parquet: {error}; write this partition again") from error
