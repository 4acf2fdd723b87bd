"""The parts of a bundle, each read and checked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.base.process import cores
from unigrec.core.blocks import all_finite
from unigrec.core.retrieval.dense import SCANNED
from unigrec.serving.basket_file import read_baskets
from unigrec.serving.catalogue import Catalogue, check_served, read_catalogue
from unigrec.serving.computed import Computed, read_computed
from unigrec.serving.extension import read_extension
from unigrec.serving.manifest import (
    BASKETS,
    DENSE,
    DENSE_CONFIG,
    EXTENSION,
    FUSION,
    IDENTIFIERS,
    ITEM_TOKENS,
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
    from torch import Tensor

    from unigrec.core.models.ensemble import Teacher
    from unigrec.core.models.recommender import Recommender, RecommenderConfig
    from unigrec.core.retrieval.baskets import Baskets
    from unigrec.core.retrieval.neighbours import Neighbours
    from unigrec.serving.extension import Extension
    from unigrec.serving.ranking_parts import Fusion


class Parts(NamedTuple):
    """What a bundle is made of. Bundles of earlier versions lack some of it."""

    recommender: Recommender  # without gradients
    codes: np.ndarray  # (N, T) int64
    catalogue: Catalogue  # ids, titles and counts of the N items
    ranking: Ranking | None  # the parts of the fused ranking
    baskets: Baskets | None  # counted pairs
    extension: Extension | None  # what was added and withdrawn after the training
    computed: Computed | None  # of a large bundle: what need not be computed
    tokens: Tensor | None  # (trained items, L or 1, E) what the recommender reads of them; None: their codes

    @property
    def trained(self) -> int:
        """Number of items that came before the training: the first."""
        return len(self.codes) - (0 if self.extension is None else self.extension.added)


def read_parts(folder: Path, manifest: dict[str, Any], checked: bool = False) -> Parts:
    """Read all parts, and check that they fit together. Raises UnigrecError; the message names the file.

    checked: the same files were read before; the values of large tables are not looked at again.
    """
    held = manifest["files"]
    recommender = load_recommender(folder / RECOMMENDER, folder / RECOMMENDER_CONFIG)
    codes = read_codes(folder, recommender.config, checked)
    extension = read_extension(folder / EXTENSION, len(codes)) if EXTENSION in held else None
    trained = len(codes) if extension is None else len(codes) - extension.added
    check_tokenizer(folder, recommender.config)
    with ThreadPoolExecutor(cores()) as threads:
        described = threads.submit(_read_catalogue, folder, manifest, codes, trained, checked)
        ranked = None
        if FUSION in held:
            ranked = threads.submit(read_ranking, folder, trained, len(codes) > trained, checked)
        counted = threads.submit(read_baskets, folder / BASKETS, trained, checked) if BASKETS in held else None
        read = threads.submit(read_tokens, folder, manifest, recommender.config, trained, checked)
        # Of two damaged parts, the one whose result is taken first is named.
        catalogue, computed = described.result()
        ranking = None if ranked is None else ranked.result()
        check_extension(folder, extension, ranking)
        baskets = None if counted is None else counted.result()
        tokens = read.result()
    return Parts(recommender.requires_grad_(False), codes, catalogue, ranking, baskets, extension, computed, tokens)


def _read_catalogue(
    folder: Path, manifest: dict[str, Any], codes: np.ndarray, trained: int, checked: bool
) -> tuple[Catalogue, Computed | None]:
    """The catalogue, and of a large bundle what need not be computed."""
    computed = read_computed(folder, manifest, codes, trained, checked)
    if computed is None:
        catalogue = read_catalogue(folder, manifest["serving"]["text_columns"], len(codes))
    else:
        catalogue = computed.catalogue
    if SERVED in manifest["files"]:
        check_served(folder / SERVED, len(codes), None if computed else catalogue.ids)
    return catalogue, computed


class Ranking(NamedTuple):
    """The parts of the fused ranking that are not in every bundle."""

    dense: Teacher
    neighbours: Neighbours
    fusion: Fusion


def read_ranking(folder: Path, items: int, extended: bool = False, checked: bool = False) -> Ranking:
    """Raises UnigrecError when a file is broken, or not of a catalogue of that many items.

    extended: items were added, whose nearest trained items are looked for in the whole catalogue. checked: as in
    `read_parts`.
    """
    return Ranking(
        read_dense(folder / DENSE, folder / DENSE_CONFIG, items, checked).requires_grad_(False),
        read_neighbours(folder / NEIGHBOURS, items, as_stored=items > SCANNED and not extended, checked=checked),
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


def check_tokenizer(folder: Path, config: RecommenderConfig) -> None:
    """Raises UnigrecError if the tokenizer does not load, or its codes are not those that the recommender reads."""
    path = folder / TOKENIZER
    tokenizer = load_tokenizer(path, folder / TOKENIZER_CONFIG)
    if (tokenizer.levels, tokenizer.codebook_size) != (config.levels, config.codebook_size):
        raise UnigrecError(
            f"{path}: {tokenizer.levels} levels of {tokenizer.codebook_size} codewords, but the recommender reads "
            f"{config.levels} of {config.codebook_size}; these parts do not belong together"
        )


def read_codes(folder: Path, config: RecommenderConfig, checked: bool = False) -> np.ndarray:
    """(N, T) int64. checked: as in `read_parts`.

    Raises UnigrecError if the identifiers are not of the recommender's code sizes.
    """
    path = folder / IDENTIFIERS
    codes = files.read_tensors(path, verified=True).get("codes")
    if codes is None or codes.dtype != torch.int32 or codes.dim() != 2 or codes.shape[1] != len(config.code_sizes):
        found = "none" if codes is None else f"{codes.dtype} {tuple(codes.shape)}".removeprefix("torch.")
        raise UnigrecError(f"{path}: expected codes int32 (N, {len(config.code_sizes)}), found {found}")
    if not checked and len(codes):
        sizes = torch.tensor(config.code_sizes)
        least, most = codes.aminmax(dim=0)
        if (least < 0).any() or (most >= sizes).any():
            outside = ((codes < 0) | (codes >= sizes)).any(1)
            raise UnigrecError(f"{path}: {int(outside.sum())} items have codes beyond {config.code_sizes}")
    return codes.long().numpy()


def read_tokens(
    folder: Path, manifest: dict[str, Any], config: RecommenderConfig, trained: int, checked: bool = False
) -> Tensor | None:
    """What the recommender reads of each trained item, (N, L or 1, E), mapped; None if it reads codes alone.

    checked: as in `read_parts`. Raises UnigrecError if the file is missing, or is none of this recommender's.
    """
    path, held = folder / ITEM_TOKENS, ITEM_TOKENS in manifest["files"]
    if held != bool(config.vector_width):
        what = "lacks" if config.vector_width else "holds"
        reads = "item vectors" if config.vector_width else "codes alone"
        raise UnigrecError(f"{folder}: the recommender reads {reads}, but the bundle {what} {ITEM_TOKENS}")
    if not held:
        return None
    tokens = files.read_tensors(path, verified=True).get("tokens")
    shape = (trained, config.tokens_per_item, config.d_model)
    if tokens is None or tokens.dtype != torch.float32 or tokens.shape != shape:
        found = "none" if tokens is None else f"{tokens.dtype} {tuple(tokens.shape)}"
        raise UnigrecError(f"{path}: expected tokens float32 {shape}, found {found}")
    if not checked and not all_finite(tokens):
        raise UnigrecError(f"{path}: tokens that are not finite")
    return tokens
