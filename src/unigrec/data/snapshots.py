"""Snapshots: the data at one moment, named by its content, with its lineage: where it came from.

    data/
      incoming/            what the shop delivers: read, never written to
      snapshots/<id>/      interactions.parquet, items.parquet, lineage.json; never changed once written; with
                           serve.columns also columns.parquet
      current              a link to the snapshot that the pipeline reads (ingest.path)

The id is a hash of the rows: the same data is the same snapshot, in any files and any order, except among rows of one
user and one time. No clock is read, so the pipeline stays a function of what `current` points to.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.config.schema import IngestParams, SnapshotParams
from unigrec.data.sources.datasets import format_of, split_ending
from unigrec.data.sources.files import describe
from unigrec.data.sources.load import load_source
from unigrec.data.sources.movielens import FILES as MOVIELENS_FILES
from unigrec.data.sources.served import NONE_SERVED, ServedTypes
from unigrec.data.sources.source import Source

INTERACTIONS_FILE, ITEMS_FILE = "interactions.parquet", "items.parquet"
UNFINISHED = "_temporary"  # a cluster's folder of parts that are still being written


class Snapshot(NamedTuple):
    """A snapshot in memory. interactions: by user and time; items and served: by id; all as `Source` has them."""

    id: str
    interactions: pa.Table
    items: pa.Table
    lineage: dict[str, Any]
    served: pa.Table | None = None


def read_incoming(
    params: SnapshotParams,
    ingest: IngestParams,
    text_columns: Sequence[str] = (),
    served_types: ServedTypes = NONE_SERVED,
    *,
    first: bool = True,
) -> Source:
    """Read a whole delivery. Files with names that the source does not know, also temporary ones, are ignored.

    Args:
        text_columns, served_types: as in `load_source`.
        first: there is no snapshot yet. A later delivery that is appended may hold interactions or items alone.

    Raises:
        UnigrecError: there is no delivery, it cannot be read, or a file in it changed while it was read.
    """
    delivery = ingest.model_copy(update={"source": params.source, "path": params.incoming})
    if params.source == "sql":  # the queries name what is read
        return load_source(delivery, 0, text_columns, served_types)
    folder = Path(params.incoming)
    if not folder.is_dir():
        raise UnigrecError(f"{folder}: no such folder (snapshot.incoming); put the delivery's files there")
    before = _state_of(folder, ingest)
    source = load_source(delivery, 0, text_columns, served_types, partial=params.mode == "append" and not first)
    after = _state_of(folder, ingest)
    changed = sorted(str(path) for path, state in set(before.items()) ^ set(after.items()) if state)
    if changed:
        raise UnigrecError(
            f"{changed[0]}: changed while it was read; wait until the delivery is complete, then try again (a delivery "
            "is best written under another name and renamed)"
        )
    return source


def _state_of(folder: Path, ingest: IngestParams) -> dict[Path, tuple[int, ...]]:
    """Size, time of writing and inode of every file that a source may read.

    Raises:
        UnigrecError: a cluster is still writing.
    """
    by_name = {ingest.files.interactions, ingest.files.items}.union(*MOVIELENS_FILES)
    found: dict[Path, tuple[int, ...]] = {}
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        if UNFINISHED in inside.parts:
            raise UnigrecError(f"{path}: a job is still writing this, or died; wait for it, or remove {UNFINISHED}")
        hidden = any(name.startswith((".", "_")) for name in inside.parts)
        if split_ending(inside.as_posix())[0] not in by_name and (hidden or format_of(path) is None):
            continue
        try:
            status = path.stat()
        except FileNotFoundError:  # renamed or removed: the comparison finds it
            continue
        if path.is_file():
            found[path] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return found


def current_snapshot() -> Snapshot | None:
    """The snapshot that `data/current` points to, checked against its lineage; None before the first snapshot.

    Raises:
        UnigrecError: `data/current` is not a link or points nowhere, or a file of the snapshot has changed.
    """
    if not paths.CURRENT.is_symlink():
        if paths.CURRENT.exists():
            raise UnigrecError(
                f"{paths.CURRENT}: should be a link to a snapshot; move what lies there to another place"
            )
        return None
    lineage = files.read_json(paths.CURRENT / paths.LINEAGE_FILE)
    for name, digest in lineage["files"].items():
        file = paths.CURRENT / name
        if not file.is_file() or describe(file, paths.CURRENT)["sha256"] != digest:
            raise UnigrecError(
                f"{file.resolve()}: missing, or not what {paths.LINEAGE_FILE} says; restore it from a copy"
            )
    interactions, items = (files.read_table(paths.CURRENT / name) for name in (INTERACTIONS_FILE, ITEMS_FILE))
    served = files.read_table(paths.CURRENT / paths.SERVED_FILE) if paths.SERVED_FILE in lineage["files"] else None
    return Snapshot(lineage["id"], interactions, items, lineage, served)


def next_snapshot(before: Snapshot | None, arrived: Source, mode: str) -> Snapshot:
    """Make the snapshot that follows `before` when a delivery has arrived; without anything new, it has the same id.

    Args:
        mode: append (new interactions are added, an item's newer row replaces the older one) or replace (the delivery
            is the whole data).
    """
    interactions, items = _plain(arrived.interactions), _plain(arrived.items)
    added = {"interactions": interactions.num_rows, "repeated": 0}
    if before is not None and mode == "append":
        interactions = _with_columns_of(before.interactions, interactions)
        known = is_known(before.interactions, interactions)
        added = {"interactions": int((~known).sum()), "repeated": int(known.sum())}
        interactions = pa.concat_tables([before.interactions, interactions.filter(pa.array(~known))])
        kept = before.items.filter(pc.invert(pc.is_in(before.items["item_id"], items["item_id"].combine_chunks())))
        items = pa.concat_tables([kept, items], promote_options="default")
    # Rows of one user and time keep their order: it is the only order that such interactions have.
    interactions = interactions.sort_by([("user_id", "ascending"), ("timestamp", "ascending")])
    items = items.select(["item_id", *sorted(set(items.column_names) - {"item_id"})]).sort_by("item_id")
    served = _served(before if mode == "append" else None, arrived)
    lineage: dict[str, Any] = {
        "id": content_id(interactions, items, *([] if served is None else [served])),
        "parent": None if before is None else before.id,
        "mode": mode,
        "delivery": arrived.provenance
        | {"time_range": time_range(arrived.interactions), "warnings": list(arrived.warnings)},
        "added": added,
        "rows": {
            "interactions": interactions.num_rows,
            "items": items.num_rows,
            "users": len(interactions["user_id"].unique().drop_null()),
        },
        "time_range": time_range(interactions),
    }
    return Snapshot(lineage["id"], interactions, items, lineage, served)


def _served(before: Snapshot | None, arrived: Source) -> pa.Table | None:
    """The served columns of all items, by id. Raises UnigrecError if a column has another type than before."""
    served = arrived.served
    if before is not None and before.served is not None:
        if served is None:  # a delivery of interactions alone
            return before.served
        kept = before.served.filter(pc.invert(pc.is_in(before.served["item_id"], served["item_id"].combine_chunks())))
        filled = [name for name in kept.column_names if kept[name].null_count < kept.num_rows]
        kept = kept.select([name for name in served.column_names if name in filled])
        try:
            served = pa.concat_tables([kept, served], promote_options="permissive").select(served.column_names)
        except pa.ArrowException as error:
            raise UnigrecError(
                f"serve.columns: the delivery's types are not those of the snapshot before: {error}; deliver all items "
                "once, with snapshot.mode: replace"
            ) from error
    return None if served is None else served.sort_by("item_id")


def _with_columns_of(before: pa.Table, arrived: pa.Table) -> pa.Table:
    """The arrived interactions with the columns of those before. Raises UnigrecError if one of them has no events."""
    if before.column_names == arrived.column_names:
        return arrived
    if not arrived.num_rows:
        return before.slice(0, 0)
    with_events = "the delivery has" if "event" in arrived.column_names else "the snapshot before has"
    raise UnigrecError(
        f"{with_events} event types and the other has none (ingest.events): take a whole delivery once, with "
        "snapshot.mode: replace"
    )


def _plain(table: pa.Table) -> pa.Table:
    """Cast to the types that all deliveries share: a column of nulls alone becomes text."""
    fields = [(f.name, pa.int64() if f.name == "timestamp" else pa.string()) for f in table.schema]
    return table.cast(pa.schema(fields))


def is_known(before: pa.Table, arrived: pa.Table) -> np.ndarray:
    """(arrived,) bool: `before` has an interaction with the same user, item, time and, where there is one, event."""
    rows = pa.concat_tables([before, arrived])
    # Equal rows get equal numbers: a column at a time, pairs of group and value are numbered again.
    groups = np.zeros(rows.num_rows, np.int64)
    for name in before.column_names:
        column = rows[name].dictionary_encode(null_encoding="encode").combine_chunks()
        index = column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        groups = np.unique(groups * (index.max(initial=0) + 1) + index, return_inverse=True)[1]
    known = np.zeros(groups.max(initial=-1) + 1, bool)
    known[groups[: before.num_rows]] = True
    return known[groups[before.num_rows :]]


def time_range(interactions: pa.Table) -> list[int | None]:
    """First and last timestamp, unix seconds."""
    ends = pc.min_max(interactions["timestamp"])
    return [ends["min"].as_py(), ends["max"].as_py()]


def content_id(*tables: pa.Table) -> str:
    """Hash names, row counts and values; how they are stored makes no difference."""
    digest = hashlib.sha256()
    for table in tables:
        digest.update(f"{table.num_rows} {table.column_names}".encode())
        for column in table.itercolumns():
            digest.update(column.is_valid().to_numpy().tobytes())
            if pa.types.is_integer(column.type):
                digest.update(column.fill_null(0).to_numpy().tobytes())
                continue
            texts = _as_texts(column).fill_null("").cast(pa.large_string())
            digest.update(pc.binary_length(texts).to_numpy().tobytes())
            for chunk in texts.chunks:
                _, offsets, letters = chunk.buffers()
                ends = np.frombuffer(offsets, np.int64)[[chunk.offset, chunk.offset + len(chunk)]]
                digest.update(memoryview(letters or b"")[slice(*ends)])
    return digest.hexdigest()[:16]


def _as_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_string(column.type):
        return column
    # What else a served column holds: each value is written in one way.
    return pa.chunked_array([pa.array([None if v is None else repr(v) for v in column.to_pylist()], pa.string())])


def write_snapshot(snapshot: Snapshot, drift: dict[str, Any] | None) -> Path:
    """Write the snapshot, unless it exists, and point `data/current` to it. Returns its folder.

    A process that dies before the end leaves `current` as it was. drift: figures that compare the snapshot with its
    parent, for the lineage. Raises UnigrecError when the disk is full.
    """
    folder = paths.SNAPSHOTS / snapshot.id
    if not folder.exists():
        with files.atomic_folder(folder) as temporary:
            files.write_table(temporary / INTERACTIONS_FILE, snapshot.interactions)
            files.write_table(temporary / ITEMS_FILE, snapshot.items)
            names = [INTERACTIONS_FILE, ITEMS_FILE]
            if snapshot.served is not None:
                files.write_table(temporary / paths.SERVED_FILE, snapshot.served)
                names.append(paths.SERVED_FILE)
            described = [describe(temporary / name, temporary) for name in names]
            hashes = {file["name"]: file["sha256"] for file in described}
            files.write_json(temporary / paths.LINEAGE_FILE, snapshot.lineage | {"files": hashes, "drift": drift})
    with files.atomic_path(paths.CURRENT) as temporary:
        temporary.symlink_to(os.path.relpath(folder, paths.CURRENT.parent))
    return folder
