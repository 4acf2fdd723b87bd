"""The parts of a bundle, each read and checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.core.retrieval.dense import SCANNED
from unigrec.serving.basket_file import read_baskets
from unigrec.serving.extension import read_extension
from unigrec.serving.item_ids import ItemIds, ItemIndex
from unigrec.serving.manifest import (
    BASKETS,
    CATALOGUE,
    DENSE,
    DENSE_CONFIG,
    EXTENSION,
    FUSION,
    IDENTIFIERS,
    NEIGHBOURS,
    RECOMMENDER,
    RECOMMENDER_CONFIG,
    SERVED,
    TOKENIZER,
    TOKENIZER_CONFIG,
)
from unigrec.serving.networks import load_recommender, load_tokenizer
from unigrec.serving.ranking_parts import read_dense, read_fusion, read_neighbours

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unigrec.core.models.ensemble import Teacher
    from unigrec.core.models.recommender import Recommender, RecommenderConfig
    from unigrec.core.retrieval.baskets import Baskets
    from unigrec.core.retrieval.neighbours import Neighbours
    from unigrec.serving.extension import Extension
    from unigrec.serving.ranking_parts import Fusion

CATALOGUE_COLUMNS = ["item_index", "item_id", "train_count"]
SERVED_TYPES = (
    *(pa.types.is_string, pa.types.is_int64, pa.types.is_float64, pa.types.is_boolean, pa.types.is_null),
    pa.types.is_timestamp,
)


class Parts(NamedTuple):
    """What a bundle is made of. Bundles of earlier versions lack some of it."""

    recommender: Recommender  # without gradients
    codes: np.ndarray  # (N, T) int64
    catalogue: pa.Table  # N rows, of `read_catalogue`
    index_of: ItemIndex  # of their ids
    ranking: Ranking | None  # the parts of the fused ranking
    baskets: Baskets | None  # counted pairs
    extension: Extension | None  # what was added and withdrawn after the training


def read_parts(folder: Path, manifest: dict[str, Any]) -> Parts:
    """Read all parts, and check that they fit together. Raises UnigrecError; the message names the file."""
    held = manifest["files"]
    catalogue = read_catalogue(folder, manifest["serving"]["text_columns"])
    recommender = load_recommender(folder / RECOMMENDER, folder / RECOMMENDER_CONFIG)
    codes = read_codes(folder, recommender.config)
    check_catalogue(folder, catalogue, len(codes))
    index = index_items(folder, catalogue)
    if SERVED in held:
        check_served(folder / SERVED, catalogue)
    check_tokenizer(folder, recommender.config)
    extension = read_extension(folder / EXTENSION, len(codes)) if EXTENSION in held else None
    trained = len(codes) if extension is None else len(codes) - extension.added
    ranking = read_ranking(folder, trained, len(codes) > trained) if FUSION in held else None
    check_extension(folder, extension, ranking)
    baskets = read_baskets(folder / BASKETS, trained) if BASKETS in held else None
    return Parts(recommender.requires_grad_(False), codes, catalogue, index, ranking, baskets, extension)


def read_catalogue(folder: Path, text_columns: Sequence[str]) -> pa.Table:
    """Columns item_index, item_id, train_count and title.

    Without a column `title`, the first of the text columns becomes it; no other text is read. A null title becomes an
    empty one. If there is no text at all, every title is empty.
    """
    path = folder / CATALOGUE
    for text in ("title", *text_columns):
        table = files.read_table(path, [*CATALOGUE_COLUMNS, text])
        _check_types(path, table)
        if text in table.column_names:
            return table.drop_columns(text).append_column("title", pc.fill_null(table[text], ""))
    table = files.read_table(path, CATALOGUE_COLUMNS)
    _check_types(path, table)
    return table.append_column("title", pa.repeat("", table.num_rows))


def check_served(path: Path, catalogue: pa.Table) -> None:
    """Raises UnigrecError unless the columns are those of the catalogue's items, and of types that filters compare."""
    ids = files.read_table(path, ["item_id"])
    if "item_id" not in ids.column_names or not ids["item_id"].equals(catalogue["item_id"]):
        raise UnigrecError(f"{path}: its items are not those of {CATALOGUE}")
    for field in pq.read_schema(path):
        kind = field.type.value_type if pa.types.is_list(field.type) else field.type
        if not any(is_kind(kind) for is_kind in SERVED_TYPES):
            raise UnigrecError(f"{path}: column {field.name!r} is of type {field.type}")


class Ranking(NamedTuple):
    """The parts of the fused ranking that are not in every bundle."""

    dense: Teacher
    neighbours: Neighbours
    fusion: Fusion


def read_ranking(folder: Path, items: int, extended: bool = False) -> Ranking:
    """Raises UnigrecError when a file is broken, or not of a catalogue of that many items.

    extended: items were added, whose nearest trained items are looked for in the whole catalogue.
    """
    return Ranking(
        read_dense(folder / DENSE, folder / DENSE_CONFIG, items).requires_grad_(False),
        read_neighbours(folder / NEIGHBOURS, items, as_stored=items > SCANNED and not extended),
        read_fusion(folder / FUSION),
    )


def check_extension(folder: Path, extension: Extension | None, ranking: Ranking | None) -> None:
    """Raises UnigrecError unless the content of added items is of the width of the trained items' content."""
    if extension is None or not extension.added:
        return
    width = 0 if ranking is None else ranking.neighbours.content.shape[1]
    if extension.content.shape[1] != width:
        raise UnigrecError(
            f"{folder / EXTENSION}: content of {extension.content.shape[1]} dimensions, but that of the trained items "
            f"has {width}"
        )


def _check_types(path: Path, table: pa.Table) -> None:
    """Raises UnigrecError unless indices and counts are integers, and every other column is text or null."""
    for field in table.schema:
        number = field.name in ("item_index", "train_count")
        kinds = [pa.types.is_integer] if number else [pa.types.is_string, pa.types.is_large_string, pa.types.is_null]
        if not any(is_kind(field.type) for is_kind in kinds):
            raise UnigrecError(f"{path}: column {field.name!r} is of type {field.type}")


def check_tokenizer(folder: Path, config: RecommenderConfig) -> None:
    """Raises UnigrecError if the tokenizer does not load, or its codes are not those that the recommender reads."""
    path = folder / TOKENIZER
    tokenizer = load_tokenizer(path, folder / TOKENIZER_CONFIG)
    if (tokenizer.levels, tokenizer.codebook_size) != (config.levels, config.codebook_size):
        raise UnigrecError(
            f"{path}: {tokenizer.levels} levels of {tokenizer.codebook_size} codewords, but the recommender reads "
            f"{config.levels} of {config.codebook_size}; these parts do not belong together"
        )


def read_codes(folder: Path, config: RecommenderConfig) -> np.ndarray:
    """(N, T) int64. Raises UnigrecError if the identifiers are not of the recommender's code sizes."""
    path = folder / IDENTIFIERS
    codes = files.read_arrays(path).get("codes")
    if codes is None or codes.dtype != np.int32 or codes.ndim != 2 or codes.shape[1] != len(config.code_sizes):
        found = "none" if codes is None else f"{codes.dtype} {codes.shape}"
        raise UnigrecError(f"{path}: expected codes int32 (N, {len(config.code_sizes)}), found {found}")
    outside = (codes < 0) | (codes >= np.array(config.code_sizes))
    if outside.any():
        raise UnigrecError(f"{path}: {int(outside.any(1).sum())} items have codes beyond {config.code_sizes}")
    return codes.astype(np.int64)


def check_catalogue(folder: Path, catalogue: pa.Table, items: int) -> None:
    """Raises UnigrecError unless the catalogue has one row per identifier, in order."""
    path = folder / CATALOGUE
    missing = set(CATALOGUE_COLUMNS) - set(catalogue.column_names)
    if missing:
        raise UnigrecError(f"{path}: columns are missing: {', '.join(sorted(missing))}")
    if catalogue.num_rows != items:
        raise UnigrecError(f"{path}: {catalogue.num_rows} items, but identifiers for {items}")
    if not np.array_equal(catalogue["item_index"].to_numpy(), np.arange(items)):
        raise UnigrecError(f"{path}: item_index does not count the rows from 0")
    counts = catalogue["train_count"]
    if counts.null_count or pc.min(counts).as_py() < 0:
        raise UnigrecError(f"{path}: a train_count is null or negative")


def index_items(folder: Path, catalogue: pa.Table) -> ItemIndex:
    """Raises UnigrecError unless the catalogue has each id once, and none is null."""
    try:
        return ItemIndex(ItemIds(catalogue["item_id"]))
    except ValueError as error:
        raise UnigrecError(f"{folder / CATALOGUE}: {error}") from error
