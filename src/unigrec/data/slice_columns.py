"""Columns of the items that the evaluation is sliced by, as values: a department, a brand, in stock or not.

A text holds one value or several, as for the fields of the teacher (`data/fields.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.base.paths import Artifacts
from unigrec.data.fields import NOT_FIELDS, values_of

FLAGS = {True: {"yes"}, False: {"no"}, None: set()}


def slice_values(artifacts: Artifacts, names: Sequence[str]) -> dict[str, list[set[str]]]:
    """The values of each item of the prepared catalogue, per named column.

    An item without a value has an empty set. The columns are those that filters can name: the texts of the catalogue,
    and `serve.columns` with their types. Without a name, no file is read.

    Raises:
        UnigrecError: the items have no such column, or it holds neither texts nor yes and no, nor lists of texts.
    """
    if not names:
        return {}
    catalogue = files.read_table(artifacts.catalogue)
    columns = {name: catalogue[name] for name in catalogue.column_names}
    if artifacts.served_columns.is_file():  # earlier versions did not prepare it
        served = files.read_table(artifacts.served_columns)
        columns |= {name: served[name] for name in served.column_names}
    columns = {name: column for name, column in columns.items() if name not in NOT_FIELDS}
    usable = ", ".join(name for name, column in columns.items() if _has_values(column.type)) or "none"
    for name in names:
        if name not in columns:
            raise UnigrecError(
                f"evaluate.slice_columns: the prepared items have no column {name!r}; those that can be named are: "
                f"{usable}. serve.columns keeps further columns of your items"
            )
        if not _has_values(columns[name].type):
            raise UnigrecError(
                f"evaluate.slice_columns: column {name!r} holds {columns[name].type}, and slices are of texts, "
                f"lists of texts, and yes or no: {usable}. For numbers, add a column with their ranges as texts"
            )
    return {name: _values(columns[name]) for name in names}


def _values(column: pa.ChunkedArray) -> list[set[str]]:
    if pa.types.is_boolean(column.type):
        return [FLAGS[value] for value in column.to_pylist()]
    if pa.types.is_list(column.type):
        return [set().union(*(values_of(text) for text in texts or [])) for texts in column.to_pylist()]
    return [values_of(text) for text in column.to_pylist()]


def _has_values(kind: pa.DataType) -> bool:
    return pa.types.is_boolean(kind) or _is_text(kind) or (pa.types.is_list(kind) and _is_text(kind.value_type))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
