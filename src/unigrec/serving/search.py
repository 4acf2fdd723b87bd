"""A bundle's answers to words: items whose identifiers and texts a query asks for, with a history or without one.

Shapes: N items, D numbers per embedding.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.core.retrieval.beam import BeamResult
from unigrec.core.retrieval.search import QueryScorer
from unigrec.core.retrieval.selection import Search
from unigrec.embedding.vectors import Encoded, Standardiser
from unigrec.embedding.words import tfidf_vector, words_in
from unigrec.serving.manifest import COLLABORATIVE, TEXT_ENCODER, TOKENIZER, TOKENIZER_CONFIG
from unigrec.serving.networks import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

CANDIDATES = 100  # the best by the query alone, which the history then ranks
FROM_HISTORY = 4  # times k: the best by the history alone


class QueryEncoder(NamedTuple):
    """Embeds queries as the catalogue was embedded, with tfidf-svd."""

    columns: dict[str, int]  # row of each word in the next two
    idf: np.ndarray  # (words,)
    components: np.ndarray  # (words, d)
    standardiser: Standardiser
    width: int  # D: further modalities of a query are the mean, which is 0
    text_columns: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path, width: int) -> QueryEncoder:
        """From a bundle's text encoder. Raises UnigrecError if it is of another kind, or damaged."""
        settings = files.read_json(folder / "settings.json")
        if settings.get("encoder") != "tfidf-svd":
            raise UnigrecError(
                f"search: the texts of this bundle were embedded by {settings.get('encoder')}, which a bundle does not "
                "hold; embed the query with it, and pass the vector"
            )
        try:
            words = files.read_json(folder / "vocabulary.json")
            arrays = files.read_arrays(folder / "encoder.safetensors")
            idf, components, centre = arrays["idf"], arrays["components"], arrays["centre_0"]
            scale, columns = float(settings["scales"][0]), tuple(settings["text_columns"])
            if not len(words) == len(idf) == len(components) or components.shape[1] != len(centre) or scale <= 0:
                raise ValueError(f"{len(words)} words, idf {idf.shape}, components {components.shape}")
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise UnigrecError(f"{folder}: not a text encoder of this version: {error!r}") from error
        rows = {word: row for row, word in enumerate(words)}
        return cls(rows, idf, components, Standardiser(centre, scale), width, columns)

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

    def unknown(self, query: str) -> list[str]:
        """Words of the query that no text of the catalogue has."""
        return [word for word in dict.fromkeys(self.words(query)) if word not in self.columns]


def without_history(scores: Tensor, k: int, allowed: Tensor | None) -> BeamResult:
    """The k best allowed items by the query alone. scores: (N,). allowed: (N,) bool."""
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    values, items = scores.sort(descending=True, stable=True)
    return BeamResult(items[None, :k].masked_fill(values[None, :k] == float("-inf"), -1), values[None, :k])


def with_history(
    search: Search, scores: Tensor, weight: float, k: int, allowed: Tensor | None, candidates: int = CANDIDATES
) -> BeamResult:
    """The k best items by the score of the history plus `weight` times that of the query.

    They are sought among the best of either; with as many `candidates` as items, that is exact.

    Args:
        search: by one history. scores: (N,) of the query. allowed: (N,) bool.
    """
    count = min(FROM_HISTORY * k, len(scores))
    if weight == 0.0:
        return search([0], allowed, k)
    likely = without_history(scores, min(candidates, len(scores)), allowed).items[0]
    mask = torch.zeros(len(scores), dtype=torch.bool)
    mask[likely[likely >= 0]] = True
    found = [search([0], mask, int(mask.sum())), search([0], allowed, count)]
    total: dict[int, float] = {}
    for result in found:
        for item, score in zip(result.items[0].tolist(), result.scores[0].tolist(), strict=True):
            if item >= 0:
                total[item] = score + weight * float(scores[item])
    ranked: Sequence[int] = sorted(total, key=lambda item: (-total[item], item))[:k]
    return BeamResult(torch.tensor([ranked]), torch.tensor([[total[item] for item in ranked]]))


class WordSearch:
    """Searches a bundle's catalogue by words. What it reads of the bundle's folder is read at the first query.

    Args:
        codes: (N, T). content: (N, D) of length 1, or 0. trained: how many items came before the training; the first.
    """

    def __init__(self, folder: Path, codes: np.ndarray, content: Tensor, trained: int):
        self.folder, self.codes, self.content, self.trained = folder, codes, content, trained

    @cached_property
    def encoder(self) -> QueryEncoder:
        """Raises UnigrecError if the bundle holds no encoder of words."""
        return QueryEncoder.load(self.folder / TEXT_ENCODER, self.content.shape[1])

    @cached_property
    def scorer(self) -> QueryScorer:
        """Raises UnigrecError if the tokenizer's parts do not fit together."""
        tokenizer = load_tokenizer(self.folder / TOKENIZER, self.folder / TOKENIZER_CONFIG)
        path = self.folder / COLLABORATIVE
        part = files.read_tensors(path).get("part") if path.is_file() else torch.zeros(self.trained, 0)
        shape = (self.trained, tokenizer.embedding_dim - self.content.shape[1])
        if part is None or part.shape != shape:
            found = "none" if part is None else tuple(part.shape)
            raise UnigrecError(f"{path}: expected a part {shape}, as the tokenizer reads it, found {found}")
        return QueryScorer(tokenizer, self.codes, self.content, part.float())

    def scores(self, query: str | np.ndarray) -> Tensor:
        """(N,) of a query, or of its vector (D,). Raises UnigrecError if no word is known."""
        if isinstance(query, str):
            vector = self.encoder.vector(query)
            if vector is None:
                raise UnigrecError(f"search: no text of the catalogue has a word of {query!r}")
        else:
            vector = torch.nn.functional.normalize(torch.as_tensor(query, dtype=torch.float32), dim=0)
            if vector.shape != self.content.shape[1:]:
                raise UnigrecError(f"search: a vector {tuple(vector.shape)}; expected {tuple(self.content.shape[1:])}")
        return self.scorer.scores(vector)
