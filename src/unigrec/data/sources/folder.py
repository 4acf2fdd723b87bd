"""The source `folder`: interactions and items as Parquet, CSV or JSON lines, each a file or a folder of parts.

Reading decides what a value *is* (an id is text, a time is unix seconds) and refuses what cannot be read. Rows that
make no sense (null ids, duplicates, unknown items, times out of range) are passed on unchanged: the stage `validate`
finds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.config.schema import IngestParams
from unigrec.data.sources.batches import asked_columns, batches_of, check_columns, choice, no_rows
from unigrec.data.sources.datasets import ENDINGS, Part, parts_of, read_part, split_ending
from unigrec.data.sources.files import describe
from unigrec.data.sources.served import NONE_SERVED, ServedTypes, served_of
from unigrec.data.sources.source import Source, provenance
from unigrec.data.sources.tables import Columns, as_written, interactions_of, items_of, params_for

MAX_SHOWN = 10  # names of a folder in an error
ROWS_AT_ONCE = 2**20  # of Parquet
NO_INTERACTIONS = pa.table(
    {"user_id": pa.array([], pa.string()), "item_id": pa.array([], pa.string()), "timestamp": pa.array([], pa.int64())}
)
NO_ITEMS = NO_INTERACTIONS.select(["item_id"])


def load_folder(
    folder: Path,
    params: IngestParams,
    text_columns: Sequence[str],
    served_types: ServedTypes = NONE_SERVED,
    *,
    partial: bool = False,
    into: Path | None = None,
) -> Source:
    """Read interactions and items from a folder.

    Args:
        text_columns: columns that describe the items, read as text whatever they hold. served_types: columns that keep
            their types.
        partial: one of the two may be missing; its table is then empty.
        into: as in `load_source`.

    Raises:
        UnigrecError: a file is missing, damaged or ambiguous, or a named column is not there.
    """
    notes: list[str] = []
    lineage = None
    if (folder / paths.LINEAGE_FILE).is_file():  # a snapshot: its tables have our names and hold the chosen rows
        lineage = files.read_json(folder / paths.LINEAGE_FILE)
        params = as_written(params)
        notes += lineage["delivery"].get("warnings", [])
    names = params.files.model_dump()
    missing = [kind for kind, name in names.items() if not _candidates(folder, name)] if partial else []
    if len(missing) == 1:
        notes.append(f"the delivery holds no {missing[0]}: those of the snapshot before are kept")
    else:
        missing = []
    parts = {kind: [] if kind in missing else parts_of(find_dataset(folder, name)) for kind, name in names.items()}

    columns = Columns.of(params)
    interactions, items, served = NO_INTERACTIONS, NO_ITEMS, None
    about_items: list[str] = []
    dropped: list[str] = []
    repeated: list[str] = []
    if parts["items"]:
        raw, repeated = _read_items(parts["items"], columns, (*text_columns, *served_types), notes=about_items)
        items, dropped = items_of(raw, columns, text_columns)
        if served_types and lineage is None:
            served = served_of(raw, served_types, columns.items_id)
    if served_types and lineage is not None:
        served = _served_of_snapshot(folder, served_types)
    rows = 0
    if parts["interactions"]:  # last: nothing is written if the items cannot be read
        batches = _interactions_in(parts["interactions"], columns, notes)
        if into is None:
            interactions = pa.concat_tables(batches)
        rows = interactions.num_rows if into is None else files.write_tables(into, batches)
    notes += about_items
    described = [describe(part.file, folder) for part in (*parts["interactions"], *parts["items"])]
    extra = {"files": described, "dropped_item_columns": [*dropped, *repeated]}
    if lineage is not None:
        extra["snapshot"] = lineage
    return Source(interactions, items, provenance("folder", rows, items.num_rows, **extra), tuple(notes), served)


def _served_of_snapshot(folder: Path, names: Iterable[str]) -> pa.Table:
    """Raises UnigrecError if the snapshot was taken without these columns."""
    file = folder / paths.SERVED_FILE
    table = files.read_table(file) if file.is_file() else NO_ITEMS
    if missing := [name for name in names if name not in table.column_names]:
        there = ", ".join(table.column_names[1:]) or "none"
        raise UnigrecError(
            f"serve.columns: the snapshot {folder} was taken without {', '.join(missing)} (it keeps: {there}); deliver "
            "the items again and run `unigrec snapshot`"
        )
    return table.select(["item_id", *names])


def read_interactions(path: Path, params: IngestParams) -> tuple[pa.Table, list[str]]:
    """The interactions of one file or folder of parts, as `Source` has them, and notes on what was read.

    Raises:
        UnigrecError: there is no such file, or as `load_folder`.
    """
    if not path.exists():
        raise UnigrecError(f"{path}: no such file; name a Parquet, CSV or JSON lines file with the interactions")
    notes: list[str] = []
    columns = Columns.of(params_for(path, params))
    return pa.concat_tables(_interactions_in(parts_of(path), columns, notes)), notes


class Items(NamedTuple):
    """Items of one file: as `Source` has them, and notes on what was read."""

    items: pa.Table
    served: pa.Table
    notes: list[str]


def read_items(
    path: Path, params: IngestParams, text_columns: Sequence[str], served_types: ServedTypes = NONE_SERVED
) -> Items:
    """The items of one file or folder of parts.

    Args:
        text_columns: as in `load_folder`. served_types: columns that keep their types, where the file has them.

    Raises:
        UnigrecError: there is no such file, or as `load_folder`.
    """
    if not path.exists():
        raise UnigrecError(f"{path}: no such file; name a Parquet, CSV or JSON lines file with the items")
    notes: list[str] = []
    columns = Columns.of(params)
    raw, _ = _read_items(parts_of(path), columns, (*text_columns, *served_types), notes=notes)
    present = {name for _, table in raw for name in table.column_names}
    found = {name: known for name, known in served_types.items() if name in present}
    served = served_of(raw, found, columns.items_id)
    return Items(items_of(raw, columns, text_columns)[0], served, notes)


def find_dataset(folder: Path, name: str) -> Path:
    """The file or folder of parts with this name. Raises UnigrecError if there is none, or more than one."""
    present = _candidates(folder, name)
    if not present:
        inside = ", ".join(sorted(path.name for path in folder.iterdir())[:MAX_SHOWN]) or "nothing"
        raise UnigrecError(
            f"{folder}: holds no {name}.parquet and no {name}.csv (found: {inside}); add one of them, or JSON lines "
            f"({name}.jsonl)"
        )
    if len(present) > 1:
        names = " and ".join(path.name for path in present)
        raise UnigrecError(f"{folder}: holds both {names}; remove the one that is not meant")
    return present[0]


def _candidates(folder: Path, name: str) -> list[Path]:
    """Files and folders with this name and an ending of a known format, in the order of the formats.

    Raises:
        UnigrecError: a link leads nowhere.
    """
    whole, order = folder / name, ("", *ENDINGS)  # a name may lead into a folder
    inside = sorted(whole.parent.iterdir()) if whole.parent.is_dir() else []
    candidates = [path for path in inside if whole.name in (path.name, split_ending(path.name)[0])]
    candidates.sort(key=lambda path: order.index(split_ending(path.name)[1]))
    for path in candidates:
        if path.is_symlink() and not path.exists():
            raise UnigrecError(f"{path}: a link that leads nowhere; bring back what it names, or put the file here")
    return [path for path in candidates if (path.is_dir() if path.suffix == "" else path.exists())]


def _interactions_in(parts: list[Part], columns: Columns, notes: list[str]) -> Iterator[pa.Table]:
    """All interactions, in tables: of Parquet in bounded memory; other formats are read once, as one table."""
    if parts[0].format == "Parquet":
        yield from batches_of(parts, columns, ROWS_AT_ONCE, notes)
        return
    needed, asked = columns.of_interactions(), asked_columns(columns)
    read = [(part, read_part(part, choice(part, columns, needed, asked), notes, required=needed)) for part in parts]
    _refuse_no_rows(read)
    yield interactions_of(read, columns, notes)


def _read_items(
    parts: list[Part], columns: Columns, needed: Sequence[str], notes: list[str]
) -> tuple[list[tuple[Part, pa.Table]], list[str]]:
    """All columns of the items, part by part, but those with one name; and the names of these.

    needed: columns of which none may be there twice.
    """
    read, repeated = [], {}
    for part in parts:

        def choose(names: list[str], part: Part = part) -> list[str]:
            check_columns(part, names, (columns.items_id,), once=needed)
            repeated.update(dict.fromkeys(name for name in names if names.count(name) > 1))
            return [name for name in names if name not in repeated]

        read.append((part, read_part(part, choose, notes, required=(columns.items_id,))))
    _refuse_no_rows(read)
    return read, list(repeated)


def _refuse_no_rows(read: list[tuple[Part, pa.Table]]) -> None:
    if not any(table.num_rows for _, table in read):
        raise no_rows(read[0][0].file)
