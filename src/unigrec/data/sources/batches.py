"""Interactions a batch of rows at a time: the same rows, remarks and errors as of all at once, in bounded memory.

How a column is read depends on all of its values: the unit of its times, and whether `ingest.where` compares its texts
as numbers. So data of more than one batch is first read for the few values that decide that (deciding.py), and then
batch by batch, each next to these values. Where `ingest.where` compares rows with each other, a batch is a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from unigrec.base.errors import UnigrecError
from unigrec.config.schema import IngestParams
from unigrec.data.sources.conditions import columns_of, sees_other_rows
from unigrec.data.sources.datasets import Part, part_schema, parts_of, read_in_batches
from unigrec.data.sources.deciding import deciding_texts, deciding_times
from unigrec.data.sources.files import readable, refuse_empty
from unigrec.data.sources.json_files import differ_in_case
from unigrec.data.sources.tables import (
    Columns,
    Counted,
    converted,
    none_left,
    params_for,
    refuse_mixed_ids,
    rows_that_count,
    times_of,
)
from unigrec.data.sources.times import Place
from unigrec.data.sources.values import is_text, plain

Texts = dict[str, pa.ChunkedArray]  # per column of ingest.where


class _Survey(NamedTuple):
    """The values that decide how columns are read."""

    times: list[tuple[Part, pa.Table]]  # a table per type of the column
    texts: dict[Path, Texts]  # per part


def interaction_batches(path: Path, params: IngestParams, rows: int, notes: list[str]) -> Iterator[pa.Table]:
    """As `folder.read_interactions`, in tables of at most `rows` rows: of Parquet. Other formats come a file at a time,
    and so does Parquet if the answer of `ingest.where` for a row depends on further rows.

    `notes` is complete when the last table was taken. Raises UnigrecError, as `folder.read_interactions`.
    """
    if not path.exists():
        raise UnigrecError(f"{path}: no such file; name a Parquet, CSV or JSON lines file with the interactions")
    yield from batches_of(parts_of(path), Columns.of(params_for(path, params)), rows, notes)


def batches_of(parts: list[Part], columns: Columns, rows: int | None, notes: list[str]) -> Iterator[pa.Table]:
    """As `interaction_batches`, of the parts of a data set."""
    rows = None if columns.where and sees_other_rows(columns.where) else rows
    file = parts[0].file if len(parts) == 1 else parts[0].file.parent
    remarks: list[str] = []
    before, left, survey = 0, 0, _Survey([], {})
    if not _one_batch(parts, rows):
        survey = _survey(parts, columns, rows)
        if survey.times:
            times_of(survey.times, Place(str(file), columns.timestamp, is_whole=False), remarks)
    for part in parts:
        unrated = 0
        for raw in _raw(part, columns, columns.of_interactions(), rows, notes):
            before += raw.num_rows
            counted = rows_that_count(raw, columns, str(part.file), survey.texts.get(part.file))
            unrated += counted.unrated
            left += counted.rows.num_rows
            if counted.rows.num_rows:
                told: list[str] = []
                yield converted([(part, counted.rows)], columns, told, next_to=survey.times, file=file)
                remarks = remarks or told
        notes += Counted(pa.table({}), unrated).remarks(part.file, columns)
    notes += remarks
    if not before:
        raise no_rows(parts[0].file)
    if not left:
        raise none_left(parts[0].file, before)


def _raw(
    part: Part, columns: Columns, names: Sequence[str], rows: int | None, notes: list[str], *, conditions: bool = True
) -> Iterator[pa.Table]:
    """Batches of a part: the columns `names` and those of ingest.where."""
    asked = asked_columns(columns) if conditions else ()
    return read_in_batches(part, choice(part, columns, names, asked), notes, columns.of_interactions(), rows)


def _one_batch(parts: list[Part], rows: int | None) -> bool:
    """Whether the data comes as one table, so that nothing else decides how it is read."""
    if len(parts) > 1 or parts[0].format != "Parquet" or rows is None:
        return len(parts) == 1
    refuse_empty(parts[0].file)
    with readable(parts[0].file, "Parquet"):
        return pq.read_metadata(parts[0].file).num_rows <= rows


def _survey(parts: list[Part], columns: Columns, rows: int | None) -> _Survey:
    """Read what decides. Raises UnigrecError, also if ids are text in one part and numbers in another."""
    times: dict[pa.DataType, tuple[Part, pa.Table]] = {}
    survey, schemas = _Survey([], {}), []
    needed = columns.of_interactions()
    for part in parts:
        schemas.append((part, part_schema(part, choice(part, columns, needed, ()), needed).empty_table()))
    refuse_mixed_ids(schemas, columns)
    for part in parts:
        if columns.where and part.format == "Parquet":
            survey.texts[part.file] = _texts(part, columns, rows)
        for raw in _raw(part, columns, tuple(filter(None, (columns.timestamp, columns.rating))), rows, []):
            chosen = rows_that_count(raw, columns, str(part.file), survey.texts.get(part.file)).rows
            found = plain(chosen[columns.timestamp])
            if found.type in times:
                before = times[found.type][1][columns.timestamp]
                found = pa.chunked_array([*before.chunks, *found.chunks], found.type)
            times[found.type] = (part, pa.table({columns.timestamp: deciding_times(found)}))
    survey.times.extend(times.values())
    return survey


def _texts(part: Part, columns: Columns, rows: int | None) -> Texts:
    """Texts that decide how the part's columns in ingest.where are compared."""
    schema = part_schema(part, choice(part, columns, (), asked_columns(columns)), ())
    kinds = {name: plain(column).type for name, column in zip(schema.names, schema.empty_table().columns, strict=True)}
    names = [name for name in kinds if is_text(kinds[name]) and name not in (columns.user_id, columns.item_id)]
    found = {name: pa.chunked_array([], kinds[name]) for name in names}
    for raw in _raw(part, columns, names, rows, [], conditions=False) if names else ():
        for name in names:
            column = pa.chunked_array([*found[name].chunks, *plain(raw[name]).chunks], kinds[name])
            found[name] = deciding_texts(column)
    return found


def asked_columns(columns: Columns) -> tuple[str, ...]:
    """Columns that ingest.where names."""
    return columns_of(columns.where) if columns.where else ()


def choice(
    part: Part, columns: Columns, needed: Sequence[str], asked: Sequence[str]
) -> Callable[[list[str]], list[str]]:
    """Choose `needed` and `asked` among all names of a part; an error if a column of `columns` is not there."""

    def choose(names: list[str]) -> list[str]:
        check_columns(part, names, columns.of_interactions())
        by_lower = {name.lower(): name for name in names}  # SQL does not tell cases apart
        return list(dict.fromkeys([*needed, *(by_lower[n.lower()] for n in asked if n.lower() in by_lower)]))

    return choose


def check_columns(part: Part, names: list[str], required: Sequence[str], once: Sequence[str] = ()) -> None:
    """Raises UnigrecError if a required name is not there, or it or one of `once` is there twice."""
    file = part.file
    for name in required:
        if names.count(name) == 0:
            hint = "; is it separated by commas?" if len(names) == 1 and part.format == "CSV" else ""
            raise UnigrecError(
                f"{file}: no column {name!r} (found: {', '.join(names)}){hint}; rename or add it, or name your own "
                "column under ingest.columns"
            )
    for name in (*required, *once):
        if names.count(name) > 1 and part.format == "JSON lines":
            raise differ_in_case(file, name)
        if names.count(name) > 1:
            raise UnigrecError(f"{file}: two columns are named {name!r}; keep one")


def no_rows(file: Path) -> UnigrecError:
    return UnigrecError(f"{file}: has a header but no rows; a model needs data to learn from")
