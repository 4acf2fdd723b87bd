"""Vectors of further modalities, read from Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.embedding.vectors import require_finite


def read_modality(path: Path, ids: Sequence[str]) -> np.ndarray:
    """Read the vectors of the items `ids` from a Parquet file with item_id (string) and embedding (list of float).

    Returns:
        float32 (len(ids), d), in the order of `ids`; rows of other items are ignored.

    Raises:
        UnigrecError: a missing file or column, a repeated or missing item, lists of different lengths, NaN or infinity.
    """
    if not path.is_file():
        raise UnigrecError(f"{path}: no such file; embed.modalities names Parquet files, relative to the project")
    table = files.read_table(path)
    for column in ("item_id", "embedding"):
        if column not in table.column_names:
            raise UnigrecError(f"{path}: no column {column!r}, only {table.column_names}")
    kind = table.schema.field("embedding").type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise UnigrecError(f"{path}: column 'embedding' holds {kind}, expected a list of floats per item")

    row_of = {item: row for row, item in enumerate(map(str, table["item_id"].to_pylist()))}
    if len(row_of) < table.num_rows:
        raise UnigrecError(f"{path}: {table.num_rows - len(row_of)} rows repeat an item_id; keep one vector per item")
    missing = [item for item in ids if item not in row_of]
    if missing:
        raise UnigrecError(f"{path}: {len(missing)} of {len(ids)} items have no vector, for example {missing[:3]}")
    lists = table["embedding"].take(pa.array([row_of[item] for item in ids])).to_pylist()
    width = len(lists[0] or [])
    for item, values in zip(ids, lists, strict=True):
        if not values or len(values) != width:
            raise UnigrecError(f"{path}: item {item!r} has {len(values or [])} values, the first item has {width}")
    vectors = np.array(lists, dtype=np.float32)  # a null inside a list becomes NaN
    require_finite(vectors, ids, str(path))
    return vectors
