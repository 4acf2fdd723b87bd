"""Dispatch: read the source that params name, with the reader of its format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unigrec.base.errors import UnigrecError
from unigrec.config.schema import IngestParams
from unigrec.data.sources.files import describe
from unigrec.data.sources.folder import load_folder
from unigrec.data.sources.sample import generate_sample
from unigrec.data.sources.source import Source, provenance


def load_source(params: IngestParams, seed: int, text_columns: Sequence[str] = (), *, partial: bool = False) -> Source:
    """Read the source that params name; only the generated sample uses `seed`.

    Args:
        text_columns: columns that describe the items (`embed.text_columns`): they are read as text whatever they hold.
        partial: a folder may hold interactions or items alone; the other table is then empty.

    Raises:
        UnigrecError: a file is missing, empty, damaged or not of the source's format.
    """
    source = _read(params, seed, text_columns, partial=partial)
    empty = [
        name
        for name in text_columns
        if source.items.num_rows
        and name in source.items.column_names
        and source.items[name].null_count == source.items.num_rows
    ]
    remarks = [f"items: column {name!r} of embed.text_columns is empty in every row" for name in empty]
    return source._replace(warnings=tuple(dict.fromkeys((*source.warnings, *remarks))))


def _read(params: IngestParams, seed: int, text_columns: Sequence[str], *, partial: bool) -> Source:
    if params.source == "sample":
        interactions, items = generate_sample(params.sample, seed)
        settings = {"seed": seed, **params.sample.model_dump()}
        return Source(interactions, items, provenance("sample", interactions, items, sample=settings))

    if params.source == "sql":
        from unigrec.data.sources.sql import load_sql

        return load_sql(params, text_columns)
    path = Path(params.path)
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise UnigrecError(f"{path}: {found}; ingest.path must be the folder that holds the files of {params.source!r}")
    if params.source == "folder":
        return load_folder(path, params, text_columns, partial=partial)
    if params.source == "movielens":
        from unigrec.data.sources.movielens import read_movielens

        interactions, items, files = read_movielens(path, params.min_rating)
    else:
        from unigrec.data.sources.amazon import read_amazon

        interactions, items, files = read_amazon(path, params.source, params.min_rating)
    described = [describe(file, path) for file in files]
    extra = {"files": described, "min_rating": params.min_rating}
    return Source(interactions, items, provenance(params.source, interactions, items, **extra))
