"""Dispatch: read the source that params name, with the reader of its format."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa

from unigrec.base.errors import UnigrecError
from unigrec.base.files import write_tables
from unigrec.config.schema import IngestParams
from unigrec.data.sources.files import describe
from unigrec.data.sources.folder import load_folder
from unigrec.data.sources.sample import generate_sample, sample_columns
from unigrec.data.sources.served import NONE_SERVED, ServedTypes, refuse_absent
from unigrec.data.sources.source import Source, provenance


def load_source(
    params: IngestParams,
    seed: int,
    text_columns: Sequence[str] = (),
    served_types: ServedTypes = NONE_SERVED,
    *,
    partial: bool = False,
    into: Path | None = None,
) -> Source:
    """Read the source that params name; only the generated sample uses `seed`.

    Args:
        text_columns: columns that describe the items (`embed.text_columns`): they are read as text whatever they hold.
        served_types: columns of the items that keep their types (`serve.columns`).
        partial: a folder may hold interactions or items alone; the other table is then empty.
        into: a file that the interactions are written to. Those of a folder with Parquet are written as they are read:
            `Source.interactions` is then empty.

    Raises:
        UnigrecError: a file is missing, empty, damaged or not of the source's format; the items lack a served column.
    """
    source = _read(params, seed, text_columns, served_types, partial=partial, into=into)
    if into is not None and params.source != "folder":
        write_tables(into, [source.interactions])
    empty = [
        name
        for name in text_columns
        if source.items.num_rows
        and name in source.items.column_names
        and source.items[name].null_count == source.items.num_rows
    ]
    remarks = [f"items: column {name!r} of embed.text_columns is empty in every row" for name in empty]
    return source._replace(warnings=tuple(dict.fromkeys((*source.warnings, *remarks))))


def _read(
    params: IngestParams,
    seed: int,
    text_columns: Sequence[str],
    served_types: ServedTypes,
    *,
    partial: bool,
    into: Path | None,
) -> Source:
    if params.source == "sample":
        interactions, items = generate_sample(params.sample, seed)
        settings = {"seed": seed, **params.sample.model_dump()}
        described = provenance("sample", interactions.num_rows, items.num_rows, sample=settings)
        return Source(interactions, items, described, served=_chosen(sample_columns(items, seed), served_types))

    if params.source == "sql":
        from unigrec.data.sources.sql import load_sql

        return load_sql(params, text_columns, served_types)
    path = Path(params.path)
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise UnigrecError(f"{path}: {found}; ingest.path must be the folder that holds the files of {params.source!r}")
    if params.source == "folder":
        return load_folder(path, params, text_columns, served_types, partial=partial, into=into)
    if params.source == "movielens":
        from unigrec.data.sources.movielens import read_movielens

        interactions, items, files = read_movielens(path, params.min_rating)
    else:
        from unigrec.data.sources.amazon import read_amazon

        interactions, items, files = read_amazon(path, params.source, params.min_rating)
    extra = {"files": [describe(file, path) for file in files], "min_rating": params.min_rating}
    described = provenance(params.source, interactions.num_rows, items.num_rows, **extra)
    return Source(interactions, items, described, served=_chosen(items, served_types))


def _chosen(columns: pa.Table, names: Collection[str]) -> pa.Table | None:
    """item_id and the named columns; None without a name. Raises UnigrecError for a name that is not there."""
    refuse_absent(names, columns.column_names)
    return columns.select(["item_id", *names]) if names else None
