"""A bundle's answers to words: items whose texts have them, and whose identifiers and vectors they mean.

Shapes: N items, D numbers per embedding.
"""

from __future__ import annotations

import contextlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.core.retrieval.search import QueryScorer, QueryScores
from unigrec.core.retrieval.word_index import WordIndex
from unigrec.embedding.vectors import Encoded, Standardiser
from unigrec.embedding.words import tfidf_vector, words_in
from unigrec.serving.manifest import CATALOGUE, COLLABORATIVE, TEXT_ENCODER, TOKENIZER, TOKENIZER_CONFIG
from unigrec.serving.networks import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from unigrec.core.retrieval.cells import Cells

AT_ONCE = 2**16  # rows of the catalogue that are Python objects


class QueryEncoder(NamedTuple):
    """Embeds queries as the catalogue was embedded, with tfidf-svd."""

    columns: dict[str, int]  # row of each word in the next two
    idf: np.ndarray  # (words,)
    components: np.ndarray  # (words, d)
    standardiser: Standardiser
    width: int  # D: further modalities of a query are the mean, which is 0

    @classmethod
    def load(cls, folder: Path, width: int) -> QueryEncoder | None:
        """From a bundle's text encoder; None if that is a language model. Raises UnigrecError for a damaged one."""
        settings = files.read_json(folder / paths.ENCODER_SETTINGS_FILE)
        if settings.get("encoder") != "tfidf-svd":
            return None
        try:
            words = files.read_json(folder / paths.ENCODER_VOCABULARY_FILE)
            arrays = files.read_arrays(folder / paths.ENCODER_TENSORS_FILE)
            idf, components, centre = arrays["idf"], arrays["components"], arrays["centre_0"]
            scale = float(settings["scales"][0])
            if not len(words) == len(idf) == len(components) or components.shape[1] != len(centre) or scale <= 0:
                raise ValueError(f"{len(words)} words, idf {idf.shape}, components {components.shape}")
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise UnigrecError(f"{folder}: not a text encoder of this version: {error!r}") from error
        rows = {word: row for row, word in enumerate(words)}
        return cls(rows, idf, components, Standardiser(centre, scale), width)

    def vector(self, query: str) -> Tensor | None:
        """(D,) of length 1; None if no word of the query is known."""
        raw = tfidf_vector(self.words(query), self.columns, self.idf, self.components)
        if raw is None:
            return None
        vector = torch.zeros(self.width)
        vector[: len(raw)] = torch.from_numpy(self.standardiser.apply(Encoded(raw[None], np.array([True])))[0])
        return torch.nn.functional.normalize(vector, dim=0)

    @staticmethod
    def words(text: str) -> list[str]:
        """The words of a text, as the vocabulary has them."""
        return words_in(text)


def catalogue_words(table: pa.Table, text_columns: Sequence[str]) -> Iterator[list[str]]:
    """The words of each item, in catalogue order. Of the text columns, those count that the catalogue has."""
    present = [name for name in text_columns if name in table.column_names]
    rows = (row for batch in table.select(present).to_batches(AT_ONCE) for row in batch.to_pylist())
    texts = (words_in(". ".join(filter(None, row.values()))) for row in rows)
    return texts if present else ([] for _ in range(table.num_rows))


class WordSearch:
    """Searches a bundle's catalogue by words. What it reads of the bundle's folder is read at the first query.

    Args:
        text_columns: of the catalogue, whose words count. codes: (N, T). content: (N, D) of length 1, or 0.
        trained: how many items came before the training; the first. index: of the items' words, if it is known.
        cells: of the trained items' content, if they are many.
    """

    def __init__(
        self,
        folder: Path,
        text_columns: Sequence[str],
        codes: np.ndarray,
        *,
        content: Tensor,
        trained: int,
        index: WordIndex | None = None,
        cells: Cells | None = None,
    ):
        self.folder, self.text_columns, self._known_index, self.cells = folder, text_columns, index, cells
        self.codes, self.content, self.trained = codes, content, trained

    @cached_property
    def encoder(self) -> QueryEncoder | None:
        """None if the texts were embedded by a language model. Raises UnigrecError for a damaged one."""
        return QueryEncoder.load(self.folder / TEXT_ENCODER, self.content.shape[1])

    @cached_property
    def index(self) -> WordIndex:
        """Of the items' words."""
        if self._known_index is not None:
            return self._known_index
        return WordIndex.of(catalogue_words(files.read_table(self.folder / CATALOGUE), self.text_columns))

    @cached_property
    def scorer(self) -> QueryScorer:
        """Raises UnigrecError if the tokenizer's parts do not fit together."""
        tokenizer = load_tokenizer(self.folder / TOKENIZER, self.folder / TOKENIZER_CONFIG)
        path = self.folder / COLLABORATIVE
        part = files.read_tensors(path).get("part") if path.is_file() else torch.zeros(len(self.codes), 0)
        shape = (len(self.codes), tokenizer.embedding_dim - self.content.shape[1])
        if part is None or part.shape != shape:
            found = "none" if part is None else tuple(part.shape)
            raise UnigrecError(f"{path}: expected a part {shape}, as the tokenizer reads it, found {found}")
        trained = part[: self.trained].float()  # that of added items is predicted itself
        return QueryScorer(self.index, tokenizer, self.codes, self.content, trained, self.cells)

    def warm_up(self) -> None:
        """Read all parts. A bundle that cannot be searched stays as it is: each search says why."""
        with contextlib.suppress(UnigrecError):
            self.scorer.warm_up()
            self.encoder  # noqa: B018 - a cached property

    def scores(self, query: str, vector: np.ndarray | None = None) -> QueryScores:
        """What a query says of the items. vector: (D,) its embedding, where a language model embedded the texts.

        Raises:
            UnigrecError: no word is known, and there is no vector; or the vector is of another width.
        """
        embedded = None
        if vector is not None:
            embedded = torch.nn.functional.normalize(torch.as_tensor(vector, dtype=torch.float32), dim=0)
            if embedded.shape != self.content.shape[1:]:
                expected = tuple(self.content.shape[1:])
                raise UnigrecError(f"search: a vector {tuple(embedded.shape)}; expected {expected}")
        elif self.encoder is not None:
            embedded = self.encoder.vector(query)
        words = words_in(query)
        if embedded is None and not any(word in self.index.rows for word in words):
            raise UnigrecError(f"search: no text of the catalogue has a word of {query!r}")
        return self.scorer.asked(words, embedded)

    def unknown(self, query: str) -> list[str]:
        """Words of the query that no text of the catalogue has."""
        return [word for word in dict.fromkeys(words_in(query)) if word not in self.index.rows]
