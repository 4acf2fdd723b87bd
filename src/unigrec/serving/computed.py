"""What a load would compute of a large bundle, computed when the bundle is written: a load maps it.

    computed.safetensors   tree_*: the prefix tree of the trained items; dense_means_*, content_means: of its cells
                           ids_*, titles_*, train_count, most_popular: the catalogue (unigrec.serving.texts)
                           words_*, word_starts, word_items, word_values: the index of a search's words
                           title_words_*, title_word_counts, kinds_*: the words of reasons

The file names the version of its format, and the hashes of the files that it was computed from. If one of the two
differs, a load computes all again. The file is not trusted: a load checks that what it holds leads to places that
exist.

Shapes: N items, T of them trained, K cells, E width of a table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.core.blocks import all_finite, are_starts
from unigrec.core.models.ensemble import members_of
from unigrec.core.retrieval.cells import Cells
from unigrec.core.retrieval.dense import SCANNED
from unigrec.core.retrieval.prefix_tree import PrefixTree, check_tree
from unigrec.core.retrieval.word_index import WordIndex
from unigrec.serving.catalogue import Catalogue, check_served, read_catalogue
from unigrec.serving.extension import read_extension
from unigrec.serving.manifest import (
    CATALOGUE,
    COMPUTED,
    DENSE,
    DENSE_CONFIG,
    EXTENSION,
    IDENTIFIERS,
    NEIGHBOURS,
    RANKING,
    SERVED,
)
from unigrec.serving.networks import load_teacher
from unigrec.serving.popularity import Popularity
from unigrec.serving.search import catalogue_words
from unigrec.serving.texts import TextIndex, Texts, one_of, stored_texts
from unigrec.serving.title_words import TitleWords

VERSION = "1"
SOURCES = (CATALOGUE, DENSE, DENSE_CONFIG, EXTENSION, IDENTIFIERS, NEIGHBOURS, SERVED)  # as far as a bundle has them
TREE, DENSE_MEANS = "tree_", "dense_means_"
ENTRIES = {"starts": torch.int64, "items": torch.int32, "values": torch.float32}  # fields of `WordIndex`


class Computed(NamedTuple):
    """What need not be computed."""

    catalogue: Catalogue
    most_popular: Tensor  # (T,)
    tree: dict[str, Tensor]  # as `PrefixTree.tensors` returns it
    dense_means: list[Tensor]  # (K, E) for each network
    content_means: Tensor  # (K, E)
    words: WordIndex
    title_words: TitleWords


def write_computed(folder: Path, text_columns: Sequence[str], hashes: Mapping[str, str]) -> None:
    """Write the file into the folder of a bundle that is made, if its catalogue is large. hashes: of its files.

    Raises UnigrecError if the parts do not fit together.
    """
    if not set(hashes) >= RANKING:
        return
    codes = files.read_arrays(folder / IDENTIFIERS)["codes"].astype(np.int64)
    if len(codes) <= SCANNED:
        return
    added = read_extension(folder / EXTENSION, len(codes)).added if EXTENSION in hashes else 0
    trained = len(codes) - added
    catalogue = read_catalogue(folder, text_columns, len(codes))
    if SERVED in hashes:
        check_served(folder / SERVED, len(codes), catalogue.ids)
    try:
        tree = PrefixTree(codes[:trained])
    except ValueError as error:
        raise UnigrecError(f"{folder / IDENTIFIERS}: {error}") from error
    teacher = load_teacher(folder / DENSE, folder / DENSE_CONFIG, verified=True)
    content = files.read_tensors(folder / NEIGHBOURS, verified=True)["content"]
    dense = Cells(tree, [network.item_vectors() for network in members_of(teacher)]).means
    tensors = {TREE + name: part for name, part in tree.tensors().items()}
    tensors |= {f"{DENSE_MEANS}{member}": means for member, means in enumerate(dense)}
    tensors["content_means"] = Cells(tree, [content]).means[0]
    tensors |= catalogue.by_id.tensors("ids") | catalogue.titles.tensors("titles")
    tensors["train_count"] = catalogue.train_counts
    tensors["most_popular"] = Popularity(catalogue.train_counts[:trained]).order
    tensors |= _words_of(folder, text_columns, catalogue, codes)
    files.write_tensors(folder / COMPUTED, tensors, {"version": VERSION, "of": _sources(hashes, text_columns)})


def _words_of(folder: Path, text_columns: Sequence[str], catalogue: Catalogue, codes: np.ndarray) -> dict[str, Tensor]:
    """The tensors that `_parsed_words` reads."""
    index = WordIndex.of(catalogue_words(files.read_table(folder / CATALOGUE), text_columns))
    titled = TitleWords.of(catalogue.titles, codes[:, 0])
    arrays = {f"word_{name}": getattr(index, name) for name in ENTRIES} | {"title_word_counts": titled.counts}
    tensors = {name: torch.as_tensor(part) for name, part in arrays.items()} | _texts(titled.kinds).tensors("kinds")
    for part, name in ((index, "words"), (titled, "title_words")):
        tensors |= TextIndex(_texts(part.rows)).tensors(name)
    return tensors


def _texts(texts: Iterable[str]) -> Texts:
    return Texts(pa.array(list(texts), pa.large_string()))


def _sources(hashes: Mapping[str, str], text_columns: Sequence[str]) -> str:
    """What the file was computed from."""
    return json.dumps([{name: hashes[name] for name in SOURCES if name in hashes}, list(text_columns)])


def read_computed(
    folder: Path, manifest: dict[str, Any], codes: np.ndarray, trained: int, checked: bool = False
) -> Computed | None:
    """None if the bundle has no such file, or one of another version or of other files.

    codes: (N, T). trained: how many items came before the training. checked: the same file was read before, and its
    values are not looked at again. Raises UnigrecError for a damaged file.
    """
    path = folder / COMPUTED
    if COMPUTED not in manifest["files"]:
        return None
    metadata, of = files.read_metadata(path), _sources(manifest["files"], manifest["serving"]["text_columns"])
    if (metadata.get("version"), metadata.get("of")) != (VERSION, of):
        return None
    tensors = files.read_tensors(path, verified=True)
    try:
        return _parsed(tensors, codes, trained, checked)
    except ValueError as error:
        raise UnigrecError(f"{path}: {error}") from error


def _parsed(tensors: dict[str, Tensor], codes: np.ndarray, trained: int, checked: bool) -> Computed:
    """Raises ValueError for what does not fit so many items."""
    items = len(codes)
    index, titles = TextIndex.stored(tensors, "ids", checked), stored_texts(tensors, "titles", checked)
    for name, size in (("train_count", items), ("most_popular", trained)):
        part = tensors.get(name)
        if part is None or part.dtype != torch.int64 or part.shape != (size,) or (not checked and part.min() < 0):
            raise ValueError(f"{name}: expected {size} integers, none below 0")
    if not len(index) == len(titles) == items:
        raise ValueError(f"ids or titles that are not those of {items} items")
    dense = _dense_means(tensors)
    content = tensors.get("content_means")
    if content is None or not all(part.dtype == torch.float32 and all_finite(part) for part in (*dense, content)):
        raise ValueError("means of cells that are missing or not finite")
    tree = {name.removeprefix(TREE): part for name, part in tensors.items() if name.startswith(TREE)}
    if not checked:
        check_tree(tree, codes[:trained])
        if tensors["most_popular"].max() >= trained:
            raise ValueError(f"most_popular: places outside of the catalogue of {trained} items")
    words = _parsed_words(tensors, codes, checked)
    catalogue = Catalogue(index, titles, tensors["train_count"])
    return Computed(catalogue, tensors["most_popular"], tree, dense, content, *words)


def _dense_means(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """In the order of the teacher's members, of which there may be more than ten."""
    names = sorted((name for name in tensors if name.startswith(DENSE_MEANS)), key=lambda name: (len(name), name))
    return [tensors[name] for name in names]


def _parsed_words(tensors: dict[str, Tensor], codes: np.ndarray, checked: bool) -> tuple[WordIndex, TitleWords]:
    """Raises ValueError as `_parsed`."""
    words, titled = (TextIndex.stored(tensors, name, checked) for name in ("words", "title_words"))
    kinds, counts = stored_texts(tensors, "kinds", checked), one_of(tensors, "title_word_counts", torch.int64)
    starts, items, values = (one_of(tensors, f"word_{name}", kind) for name, kind in ENTRIES.items())
    fits = len(starts) == len(words) + 1 and len(items) == len(values) and len(counts) == len(titled)
    fits = fits and len(kinds) > int(codes[:, 0].max(initial=-1))
    if fits and not checked:
        fits = are_starts(starts, len(words), len(items)) and all_finite(values)
        fits = fits and (not len(items) or 0 <= int(items.min()) <= int(items.max()) < len(codes))
    if not fits:
        raise ValueError(f"words that are not those of {len(codes)} items")
    index = WordIndex(words, starts.numpy(), items.numpy(), values.numpy(), len(codes))
    return index, TitleWords(titled, counts.numpy(), kinds)
