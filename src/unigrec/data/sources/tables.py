"""From raw columns under the shop's names, of any type, to the two tables: shared by the folder and the SQL source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from unigrec.base import paths
from unigrec.base.errors import UnigrecError
from unigrec.base.paths import Artifacts
from unigrec.config.schema import ColumnsParams, FilesParams, IngestParams
from unigrec.data.sources.conditions import rows_where
from unigrec.data.sources.datasets import Part
from unigrec.data.sources.times import NUMBER, Place, to_seconds
from unigrec.data.sources.values import ids, is_number, is_text, plain, texts

Parts = Sequence[tuple[Part, pa.Table]]


def as_written(params: IngestParams) -> IngestParams:
    """The params for tables that the program wrote itself: they have our names, and hold the rows that count."""
    ours = {"files": FilesParams(), "columns": ColumnsParams(), "where": "", "min_rating": 0.0}
    return params.model_copy(update=ours)


def params_for(path: Path, params: IngestParams) -> IngestParams:
    """`as_written` for the interactions that the stage `ingest` wrote and for those of a snapshot; else the params."""
    file = path.resolve()
    is_ours = file == Artifacts().interactions.resolve() or (file.parent / paths.LINEAGE_FILE).is_file()
    return as_written(params) if is_ours else params


class Columns(NamedTuple):
    """How the shop names its columns, and which of its rows count."""

    user_id: str
    item_id: str
    timestamp: str
    items_id: str
    rating: str
    min_rating: float
    where: str
    event: str  # "": all rows are one kind of event
    events: tuple[str, ...]  # the types that there may be

    @classmethod
    def of(cls, params: IngestParams) -> Columns:
        names = params.columns
        return cls(
            names.user_id,
            names.item_id,
            names.timestamp,
            items_id=names.items_id or names.item_id,
            rating=names.rating,
            min_rating=params.min_rating,
            where=params.where,
            event=names.event if params.events else "",
            events=tuple(params.events),
        )

    def of_interactions(self) -> tuple[str, ...]:
        """Names of the columns that the interactions must have."""
        needed = (self.user_id, self.item_id, self.timestamp, self.rating, self.event)
        return tuple(dict.fromkeys(name for name in needed if name))


def interactions_of(parts: Parts, columns: Columns, notes: list[str]) -> pa.Table:
    """user_id, item_id and timestamp of the rows that count, in the order of the parts.

    Raises:
        UnigrecError: a column cannot be read as what it is named for, parts differ in a way that cannot be reconciled,
            or no row is left.
    """
    before = sum(table.num_rows for _, table in parts)
    chosen = []
    for part, table in parts:
        counted = rows_that_count(table, columns, str(part.file))
        notes += counted.remarks(part.file, columns)
        chosen.append((part, counted.rows))
    if not any(table.num_rows for _, table in chosen):
        raise none_left(chosen[0][0].file, before)
    refuse_mixed_ids(chosen, columns)
    return converted(chosen, columns, notes)


def none_left(file: Path, before: int) -> UnigrecError:
    return UnigrecError(f"{file}: none of {before:,} rows is left by ingest.where and ingest.min_rating; loosen them")


def converted(
    chosen: Parts, columns: Columns, notes: list[str], *, next_to: Parts = (), file: Path | None = None
) -> pa.Table:
    """user_id, item_id and timestamp of rows that count. Remarks are about times alone. Raises UnigrecError.

    next_to: times of other rows, which are read together with these (deciding.py). file: named in messages about times.
    """
    others = sum(table.num_rows for _, table in next_to)
    place, parts = Place(str(file or place_of(chosen)), columns.timestamp, is_whole=not next_to), [*next_to, *chosen]
    table = {
        "user_id": _whole_column(chosen, columns.user_id),
        "item_id": _whole_column(chosen, columns.item_id),
        "timestamp": times_of(parts, place, notes).slice(others),
    }
    if columns.event:
        table["event"] = _events(chosen, columns)
    return pa.table(table)


def _events(parts: Parts, columns: Columns) -> pa.ChunkedArray:
    """Event types as text. Raises UnigrecError for one that params do not name, and for rows without one."""
    found = _whole_column(parts, columns.event)
    unknown = found.filter(pc.invert(pc.is_in(found, value_set=pa.array(columns.events, pa.string()))))
    if not len(unknown):
        return found
    counts = sorted(unknown.value_counts().to_pylist(), key=lambda pair: -pair["counts"])
    named = ", ".join(
        f"{'no value' if p['values'] is None else repr(p['values'])} ({p['counts']:,} rows)" for p in counts[:5]
    )
    raise Place(str(parts[0][0].file), columns.event).error(
        f"holds {named}, which ingest.events does not name ({', '.join(columns.events)}); name it with a weight (0: it "
        "is read in histories, but never a target), or leave its rows out by ingest.where"
    )


class Counted(NamedTuple):
    """Rows that count, and how many others have no rating."""

    rows: pa.Table
    unrated: int

    def remarks(self, file: Path, columns: Columns) -> list[str]:
        place = Place(str(file), columns.rating)
        return [place.remark(f"is empty in {self.unrated:,} rows: they are left out")] if self.unrated else []


def rows_that_count(
    table: pa.Table, columns: Columns, file: str, next_to: Mapping[str, pa.ChunkedArray] | None = None
) -> Counted:
    """The rows that ingest.where and ingest.min_rating leave. Raises UnigrecError. next_to: as in `rows_where`."""
    if columns.where:
        ids = {columns.user_id, columns.item_id}
        table = rows_where(table, columns.where, ids=ids, file=file, next_to=next_to or {})
    if not columns.rating:
        return Counted(table, 0)
    ratings = _numbers(table[columns.rating], Place(file, columns.rating))
    return Counted(table.filter(pc.greater_equal(ratings, columns.min_rating)), ratings.null_count)


def _numbers(column: pa.ChunkedArray, place: Place) -> pa.ChunkedArray:
    """Ratings as float64, blanks and NaN as nulls. Raises UnigrecError for text that is no number."""
    column = plain(column)
    if is_text(column.type):
        column = pc.utf8_trim_whitespace(column.cast(pa.string()))
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
        odd = column.filter(pc.invert(pc.match_substring_regex(column, NUMBER)))
        if len(odd):
            raise place.error(f"holds {odd[0].as_py()!r}; ratings are numbers")
    elif not (is_number(column.type) or pa.types.is_null(column.type)):
        raise place.error(f"is of type {column.type}; ratings are numbers")
    column = column.cast(pa.float64())
    return pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)


def refuse_mixed_ids(parts: Parts, columns: Columns) -> None:
    """Raises UnigrecError if ids are text in one part and numbers in another: they would not meet."""
    _refuse_mixed(parts, (columns.user_id, columns.item_id))


def _refuse_mixed(parts: Parts, names: tuple[str, ...]) -> None:
    for name in names:
        kinds = {plain(table[name]).type for _, table in parts}
        if any(map(is_number, kinds)) and any(map(is_text, kinds)):
            raise _differ(parts, f"{name} is {' and '.join(sorted(map(str, kinds)))}")


def _differ(parts: Parts, what: str) -> UnigrecError:
    folder = parts[0][0].file.parent
    return UnigrecError(f"{folder}: the parts differ in their columns: {what}; write all alike")


def _whole_column(parts: Parts, name: str) -> pa.ChunkedArray:
    """Ids of all parts; each is read by its own type."""
    pieces = [ids(table[name], Place(str(part.file), name)) for part, table in parts]
    return pa.chunked_array([chunk for piece in pieces for chunk in piece.chunks], pa.string())


def place_of(parts: Parts) -> Path:
    """The file of a single part, or the folder of several."""
    file = parts[0][0].file
    return file if len(parts) == 1 else file.parent


def times_of(parts: Parts, place: Place, notes: list[str]) -> pa.ChunkedArray:
    """Times of all parts at once: their unit is one. Raises UnigrecError, which names the place."""
    try:
        raw = pa.concat_tables(
            [pa.table({place.column: plain(table[place.column])}) for _, table in parts], promote_options="permissive"
        )
    except pa.ArrowException as error:
        raise _differ(parts, str(error)) from error
    return to_seconds(raw[place.column], place, notes)


def items_of(parts: Parts, columns: Columns, text_columns: Sequence[str]) -> tuple[pa.Table, list[str]]:
    """item_id and the text columns; the names of those dropped, which are neither text nor asked for.

    Raises:
        UnigrecError: an id or a named text cannot be read, or ids differ in type between the parts.
    """
    _refuse_mixed(parts, (columns.items_id,))
    names = dict.fromkeys(name for _, table in parts for name in table.column_names)
    read: dict[str, pa.ChunkedArray] = {"item_id": _whole_column(parts, columns.items_id)}
    dropped = []
    for name in names:
        if name == columns.items_id:
            continue
        pieces = [_texts_of(part, table, name, named=name in text_columns) for part, table in parts]
        if name == "item_id" or any(piece is None for piece in pieces):
            dropped.append(name)
        else:
            read[name] = pa.chunked_array([chunk for piece in pieces for chunk in piece.chunks], pa.string())  # type: ignore[union-attr]
    return pa.table(read), dropped


def _texts_of(part: Part, table: pa.Table, name: str, named: bool) -> pa.ChunkedArray | None:
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, pa.string())])
    return texts(table[name], Place(str(part.file), name), named=named, untyped=part.format != "Parquet")
