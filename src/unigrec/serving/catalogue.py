"""A bundle's catalogue: ids, titles, and how often each item was taken, read from Parquet and checked.

Shapes: N items.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.serving.manifest import CATALOGUE
from unigrec.serving.texts import TextIndex, Texts

if TYPE_CHECKING:
    from collections.abc import Sequence

CATALOGUE_COLUMNS = ["item_index", "item_id", "train_count"]
SERVED_TYPES = (
    *(pa.types.is_string, pa.types.is_int64, pa.types.is_float64, pa.types.is_boolean, pa.types.is_null),
    pa.types.is_timestamp,
)


class Catalogue(NamedTuple):
    """What is known of each item, in catalogue order."""

    by_id: TextIndex  # places of the ids
    titles: Texts
    train_counts: Tensor  # (N,) int64, interactions in the training part

    @property
    def ids(self) -> Texts:
        return self.by_id.texts


def read_catalogue(folder: Path, text_columns: Sequence[str], items: int) -> Catalogue:
    """The catalogue, with a title per item.

    Without a column `title`, the first of the text columns becomes it; no other text is read. A null title becomes an
    empty one. If there is no text at all, every title is empty.

    Raises:
        UnigrecError: it does not have so many items, each id once, in order.
    """
    table = _read_table(folder / CATALOGUE, text_columns)
    _check(folder / CATALOGUE, table, items)
    try:
        index = TextIndex(Texts(table["item_id"]))
    except ValueError as error:
        raise UnigrecError(f"{folder / CATALOGUE}: item ids: {error}") from error
    # An Arrow column: a million titles take no more memory than their letters.
    titles = Texts(table["title"])
    return Catalogue(index, titles, torch.as_tensor(table["train_count"].to_numpy().astype(np.int64)))


def _read_table(path: Path, text_columns: Sequence[str]) -> pa.Table:
    """Columns item_index, item_id, train_count and title."""
    for text in ("title", *text_columns):
        table = files.read_table(path, [*CATALOGUE_COLUMNS, text])
        _check_types(path, table)
        if text in table.column_names:
            titles = table[text].cast(pa.large_string())  # a column without a value may have no type
            return table.drop_columns(text).append_column("title", pc.fill_null(titles, ""))
    table = files.read_table(path, CATALOGUE_COLUMNS)
    _check_types(path, table)
    return table.append_column("title", pa.repeat("", table.num_rows))


def _check(path: Path, table: pa.Table, items: int) -> None:
    """Raises UnigrecError unless the catalogue has one row per identifier, in order."""
    missing = set(CATALOGUE_COLUMNS) - set(table.column_names)
    if missing:
        raise UnigrecError(f"{path}: columns are missing: {', '.join(sorted(missing))}")
    if table.num_rows != items:
        raise UnigrecError(f"{path}: {table.num_rows} items, but identifiers for {items}")
    if not np.array_equal(table["item_index"].to_numpy(), np.arange(items)):
        raise UnigrecError(f"{path}: item_index does not count the rows from 0")
    counts = table["train_count"]
    if counts.null_count or pc.min(counts).as_py() < 0:
        raise UnigrecError(f"{path}: a train_count is null or negative")


def _check_types(path: Path, table: pa.Table) -> None:
    """Raises UnigrecError unless indices and counts are integers, and every other column is text or null."""
    for field in table.schema:
        number = field.name in ("item_index", "train_count")
        kinds = [pa.types.is_integer] if number else [pa.types.is_string, pa.types.is_large_string, pa.types.is_null]
        if not any(is_kind(field.type) for is_kind in kinds):
            raise UnigrecError(f"{path}: column {field.name!r} is of type {field.type}")


def check_served(path: Path, items: int, ids: Texts | None) -> None:
    """Raises UnigrecError unless the columns are those of the catalogue's items, and of types that filters compare.

    ids: of the items; None if the writer of the bundle has compared them.
    """
    schema = pq.read_schema(path)
    fits = "item_id" in schema.names and pq.read_metadata(path).num_rows == items
    if fits and ids is not None:
        found = files.read_table(path, ["item_id"])["item_id"]
        fits = found.cast(ids.column.type).equals(pa.chunked_array([ids.column]))
    if not fits:
        raise UnigrecError(f"{path}: its items are not those of {CATALOGUE}")
    for field in schema:
        kind = field.type.value_type if pa.types.is_list(field.type) else field.type
        if not any(is_kind(kind) for is_kind in SERVED_TYPES):
            raise UnigrecError(f"{path}: column {field.name!r} is of type {field.type}")
