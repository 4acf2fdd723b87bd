"""The parts of a bundle, read and checked one by one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.core.models.recommender import Recommender, RecommenderConfig
from unigrec.core.models.tokenizers.residual import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

CATALOGUE_COLUMNS = ["item_index", "item_id", "train_count"]


def read_catalogue(folder: Path, text_columns: Sequence[str]) -> pa.Table:
    """item_index, item_id, train_count and title: the first text column that there is, where none has that name.

    No other text is read. A null title becomes an empty one, and so does each where there is no text at all.
    """
    path = folder / "catalogue.parquet"
    for text in ("title", *text_columns):
        table = files.read_table(path, [*CATALOGUE_COLUMNS, text])
        _check_types(path, table)
        if text in table.column_names:
            return table.drop_columns(text).append_column("title", pc.fill_null(table[text], ""))
    table = files.read_table(path, CATALOGUE_COLUMNS)
    _check_types(path, table)
    return table.append_column("title", pa.repeat("", table.num_rows))


def _check_types(path: Path, table: pa.Table) -> None:
    """Numbers where numbers belong, text (or nothing at all) in every other column."""
    for field in table.schema:
        number = field.name in ("item_index", "train_count")
        kinds = [pa.types.is_integer] if number else [pa.types.is_string, pa.types.is_large_string, pa.types.is_null]
        if not any(is_kind(field.type) for is_kind in kinds):
            raise UnigrecError(f"{path}: column {field.name!r} is of type {field.type}")


def read_recommender(folder: Path) -> Recommender:
    path, config_path = folder / "recommender.safetensors", folder / "recommender.json"
    try:
        weights = files.read_tensors(path)
        config = RecommenderConfig(**files.read_json(config_path))
        _refuse_more_layers(config.encoder_layers + config.decoder_layers, weights)
        with torch.device("meta"):  # nothing is allocated for shapes that the weights do not have
            recommender = Recommender(config)
        recommender.load_state_dict(weights, assign=True)
    except (TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError) as error:
        raise UnigrecError(f"{path}: the weights do not fit {config_path.name}: {error}") from error
    _check_finite(path, weights)
    return recommender.eval().requires_grad_(False)


def check_tokenizer(folder: Path, config: RecommenderConfig) -> None:
    path = folder / "tokenizer.safetensors"
    try:
        weights = files.read_tensors(path)
        shape = files.read_json(folder / "tokenizer.json")
        _refuse_more_layers(len(shape["hidden"]), weights)
        with torch.device("meta"):
            tokenizer = Tokenizer(**shape)
        tokenizer.load_state_dict(weights, assign=True)
    except (TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError, KeyError) as error:
        raise UnigrecError(f"{path}: the weights do not fit tokenizer.json: {error}") from error
    _check_finite(path, weights)
    if (tokenizer.levels, tokenizer.codebook_size) != (config.levels, config.codebook_size):
        raise UnigrecError(
            f"{path}: {tokenizer.levels} levels of {tokenizer.codebook_size} codewords, but the recommender reads "
            f"{config.levels} of {config.codebook_size}; these parts do not belong together"
        )


def _refuse_more_layers(layers: int, weights: dict[str, torch.Tensor]) -> None:
    """Even layers without memory take time to build. Raises ValueError."""
    if layers > len(weights):
        raise ValueError(f"{layers} layers, but {len(weights)} weights")


def _check_finite(path: Path, weights: dict[str, torch.Tensor]) -> None:
    broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise UnigrecError(f"{path}: weights that are not finite: {', '.join(broken[:5])}")


def read_codes(folder: Path, config: RecommenderConfig) -> np.ndarray:
    path = folder / "identifiers.safetensors"
    codes = files.read_arrays(path).get("codes")
    if codes is None or codes.dtype != np.int32 or codes.ndim != 2 or codes.shape[1] != len(config.code_sizes):
        found = "none" if codes is None else f"{codes.dtype} {codes.shape}"
        raise UnigrecError(f"{path}: expected codes int32 (N, {len(config.code_sizes)}), found {found}")
    outside = (codes < 0) | (codes >= np.array(config.code_sizes))
    if outside.any():
        raise UnigrecError(f"{path}: {int(outside.any(1).sum())} items have codes beyond {config.code_sizes}")
    return codes.astype(np.int64)


def check_catalogue(folder: Path, catalogue: pa.Table, items: int) -> None:
    path = folder / "catalogue.parquet"
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
    ids = catalogue["item_id"]
    if ids.null_count or len(ids.unique()) != items:
        raise UnigrecError(f"{path}: item ids are null or repeat")
