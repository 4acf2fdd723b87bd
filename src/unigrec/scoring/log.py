"""An interaction log of any length, spread over parts by user: all interactions of a user are in one part.

The log is read once, a batch of rows at a time. A batch is sorted by part and written as one Parquet file with a row
group per part. A part is therefore a row group of each file, and its users fit into memory.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unigrec.base import files
from unigrec.data.histories import COLUMNS, EVENT, histories_of
from unigrec.data.sources.files import readable

BATCH_ROWS = 500_000
GROUPS = b"parts"  # in a file's metadata: the part of each row group, as JSON
COUNTS = "rows.json"  # rows of each part; the log is whole if it is there


def spread(batches: Iterable[pa.Table], folder: Path, parts: int) -> list[int]:
    """Write batches of interactions; returns the number of rows of each part. Rows without a user are left out."""
    rows = np.zeros(parts, np.int64)
    for number, batch in enumerate(batches):
        names = [name for name in (*COLUMNS, EVENT) if name in batch.column_names]
        table = batch.select(names).filter(batch["user_id"].is_valid()).combine_chunks()
        part = part_of_each(table["user_id"], parts)
        rows += np.bincount(part, minlength=parts)
        order = np.argsort(part, kind="stable")
        _write(folder / f"{number:06}.parquet", table.take(order), part[order])
    files.write_json(folder / COUNTS, rows.tolist())
    return rows.tolist()


def part_of_each(users: pa.ChunkedArray, parts: int) -> np.ndarray:
    """(rows,) the part of each row, by a hash of the user that is the same everywhere."""
    encoded = users.combine_chunks().dictionary_encode()
    of_user = np.array([zlib.crc32(user.encode()) % parts for user in encoded.dictionary.to_pylist()], np.int64)
    return of_user[encoded.indices.to_numpy()]


def _write(path: Path, table: pa.Table, part: np.ndarray) -> None:
    present, starts = np.unique(part, return_index=True)
    with files.atomic_path(path) as temporary, pq.ParquetWriter(temporary, table.schema, compression="zstd") as writer:
        for start, end in zip(starts, [*starts[1:], len(part)], strict=True):
            writer.write_table(table.slice(start, end - start), row_group_size=max(end - start, 1))
        writer.add_key_value_metadata({GROUPS: json.dumps(present.tolist())})


def counts_of(folder: Path) -> list[int] | None:
    """Rows of each part; None if the log is not whole."""
    return files.read_json(folder / COUNTS) if (folder / COUNTS).is_file() else None


def read_histories(folder: Path, part: int) -> tuple[list[str], list[list[str]]]:
    """The users of a part, and the items of each in the order of time. Raises UnigrecError for a damaged file."""
    tables: list[pa.Table] = []
    for path in sorted(folder.glob("*.parquet")):
        with readable(path, "Parquet"), pq.ParquetFile(path) as file:
            groups = json.loads(file.metadata.metadata[GROUPS])
            if part in groups:
                tables.append(file.read_row_group(groups.index(part), use_threads=False))
    return histories_of(pa.concat_tables(tables)) if tables else ([], [])
