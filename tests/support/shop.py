"""Valid data of a small shop, and the ways in which the cases of bad input break it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from unigrec.base.errors import EXIT_BAD_INPUT, EXIT_INVALID_DATA, EXIT_OK

USERS, ITEMS, EACH = 60, 24, 10  # the least that the committed params.yaml accepts
MOMENT = 1_400_000_000
ROWS = USERS * EACH

Columns = dict[str, Any]  # name -> values or an Arrow array


class Case(NamedTuple):
    """One kind of bad input and its expected outcome."""

    kind: str
    breaks: Callable[[Path], None]  # writes the broken data into an empty folder
    exit_code: int
    says: str  # regular expression: found in the error, or in the warnings if the data is accepted
    counts: dict[str, Any]  # of accepted data, as `test_data_battery.counted` returns them


def refused(kind: str, breaks: Callable[[Path], None], says: str) -> Case:
    """A case that stops `ingest` or `prepare`."""
    return Case(kind, breaks, EXIT_BAD_INPUT, says, {})


def invalid(kind: str, breaks: Callable[[Path], None], says: str) -> Case:
    """A case that can be read and that an expectation stops."""
    return Case(kind, breaks, EXIT_INVALID_DATA, says, {})


def accepted(kind: str, breaks: Callable[[Path], None], says: str = "", **counts: Any) -> Case:
    """A case that is accepted as documented, with the counts of what was cleaned."""
    return Case(kind, breaks, EXIT_OK, says, counts)


def interactions() -> Columns:
    """600 rows: each of 60 users with 10 of 24 items in a row, at distinct times."""
    pairs = [(user, step) for user in range(USERS) for step in range(EACH)]
    return {
        "user_id": [f"u{user}" for user, _ in pairs],
        "item_id": [f"i{(user + step) % ITEMS}" for user, step in pairs],
        "timestamp": [MOMENT + 1000 * user + 10 * step for user, step in pairs],
    }


def items() -> Columns:
    return {
        "item_id": [f"i{item}" for item in range(ITEMS)],
        "title": [f"Lamp number {item} of oak" for item in range(ITEMS)],
    }


def write(folder: Path, log: Columns | None = None, catalogue: Columns | None = None) -> None:
    """Write both files as Parquet."""
    for name, columns in (("interactions", log or interactions()), ("items", catalogue or items())):
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def write_csv(folder: Path, log: Columns | None = None, catalogue: Columns | None = None) -> None:
    """Write both files as CSV in UTF-8."""
    for name, columns in (("interactions", log or interactions()), ("items", catalogue or items())):
        (folder / f"{name}.csv").write_bytes(as_csv(columns))


def as_csv(columns: Columns) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()


def column(name: str, change: Callable[[list], Any]) -> Callable[[Path], None]:
    """Parquet with one column of the interactions replaced by `change` of its good values."""
    return lambda folder: write(folder, {**interactions(), name: change(interactions()[name])})


def item_column(name: str, change: Callable[[list], Any]) -> Callable[[Path], None]:
    """Parquet with one column of the items replaced. A new column starts from the titles."""
    return lambda folder: write(folder, None, {**items(), name: change(items().get(name, items()["title"]))})


def both_ids(change: Callable[[str], str]) -> Callable[[Path], None]:
    """Parquet with other item ids, the same in both files."""

    def breaks(folder: Path) -> None:
        log, catalogue = interactions(), items()
        for columns in (log, catalogue):
            columns["item_id"] = [change(item) for item in columns["item_id"]]
        write(folder, log, catalogue)

    return breaks


def csv_bytes(change: Callable[[bytes], bytes], name: str = "interactions") -> Callable[[Path], None]:
    """CSV with the bytes of one file changed."""

    def breaks(folder: Path) -> None:
        write_csv(folder)
        file = folder / f"{name}.csv"
        file.write_bytes(change(file.read_bytes()))

    return breaks


def parquet_bytes(change: Callable[[bytes], bytes], name: str = "interactions") -> Callable[[Path], None]:
    """Parquet with the bytes of one file changed."""

    def breaks(folder: Path) -> None:
        write(folder)
        file = folder / f"{name}.parquet"
        file.write_bytes(change(file.read_bytes()))

    return breaks


def with_first(*values: Any) -> Callable[[list], list]:
    """The good values with the first ones replaced."""
    return lambda good: [*values, *good[len(values) :]]
