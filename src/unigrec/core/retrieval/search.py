"""From words to items: texts that have the words, and identifiers that the tokenizer gives to the embedded query.

    score(i | query) = BM25(query, text of i) + MEANING * meaning(i)
    meaning(i) = sum over levels of log p_l(c_l(i) | query) + CLOSENESS * cosine(query, text of i)

BM25 finds the words. Where they leave a choice, and where no text has them, the meaning decides. p are the soft
assignments of the tokenizer, whose encoder reads the query in place of an item: they tell kinds of items, and the
cosine tells the items of a kind apart. The constants were chosen on validation items of Office and Beauty
(`python -m benchmarks.word_search`).

Shapes: N items, D content dimensions, E dimensions that the tokenizer reads of the teacher, L levels, T codes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.core.blocks import products
from unigrec.core.models.linear_map import LinearMap, ridge_regression
from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.core.retrieval.beam import BeamResult
from unigrec.core.retrieval.cells import Cells
from unigrec.core.retrieval.prefix_tree import Restriction
from unigrec.core.retrieval.selection import Search
from unigrec.core.retrieval.word_index import WordIndex

TEMPERATURE = 1.0  # of the soft assignments of a query: flatter than in training, since a query says little
CLOSENESS = 20.0
MEANING = 0.05
RIDGE = 1e-2
SEARCH_WEIGHT = 2.0  # of a query next to 1 for a history, where none was fitted (`unigrec.core.training.search_weight`)
CANDIDATES = 100  # the best by the query alone, which the history then ranks
FROM_HISTORY = 4  # times k: the best by the history alone
READ = 8_192  # items of a large catalogue that are scored, by words and by meaning each, if there are so many


class QueryScorer:
    """Scores the catalogue for queries.

    Args:
        index: of the items' words. tokenizer: reads D + E numbers. codes: (N, T). content: (N, D) of length 1, or 0.
        part: (n, E) what the tokenizer read of the teacher, of the first n items; of a query, it is predicted from the
            content.
        cells: of the content of the first items, where a catalogue is too large to score it as a whole.
    """

    def __init__(
        self,
        index: WordIndex,
        tokenizer: Tokenizer,
        codes: np.ndarray,
        content: Tensor,
        part: Tensor,
        cells: Cells | None = None,
    ):
        self.index, self.tokenizer, self.content, self.part, self.cells = index, tokenizer, content, part, cells
        self.codes = torch.as_tensor(codes)[:, : tokenizer.levels]

    @cached_property
    def _to_part(self) -> LinearMap:
        return ridge_regression(self._scaled(self.content[: len(self.part)].float()), self.part, RIDGE)

    def warm_up(self) -> None:
        """Fit what the first query would wait for."""
        if self.part.shape[1]:
            self._to_part  # noqa: B018 - a cached property

    def _scaled(self, unit: Tensor) -> Tensor:
        """Vectors as long as an item's embedding is on average: one variance per dimension."""
        return unit * math.sqrt(unit.shape[-1])

    @torch.inference_mode()
    def code_scores(self, query: Tensor, temperature: float = TEMPERATURE) -> Tensor:
        """(N,) log-probability of each item's first L codes. query: (D,) of length 1."""
        return code_sums(self.code_probabilities(query, temperature), self.codes)

    @torch.inference_mode()
    def code_probabilities(self, query: Tensor, temperature: float = TEMPERATURE) -> Tensor:
        """(L, K) log-probability of each code. query: (D,) of length 1."""
        vector = self._scaled(query)[None]
        if self.part.shape[1]:
            vector = torch.cat([vector, vector @ self._to_part.weight.T + self._to_part.bias], dim=1)
        latent = self.tokenizer.encoder(vector)
        return self.tokenizer.quantize_soft(latent, temperature).log_probabilities[0]

    @torch.inference_mode()
    def meaning(self, query: Tensor) -> Tensor:
        """(N,) how much each item is meant, whatever its words. query: (D,) of length 1."""
        return self.code_scores(query) + CLOSENESS * products(self.content, query)

    def scores(self, words: Sequence[str], query: Tensor | None) -> Tensor:
        """(N,) what a search ranks by.

        Args:
            words: of the query. query: (D,) its embedding, of length 1; None if there is none.
        """
        found = self.index.scores(words)
        return found if query is None else found + MEANING * self.meaning(query)

    def asked(self, words: Sequence[str], query: Tensor | None) -> QueryScores:
        """As `scores`, of the items that are asked for."""
        return AllScores(self.scores(words, query)) if self.cells is None else ReadScores(self, words, query)


def code_sums(log_p: Tensor, codes: Tensor) -> Tensor:
    """Sums of the log-probabilities (L, K) of codes (n, up to L) -> (n,)."""
    return log_p[: codes.shape[1]].gather(1, codes.T).sum(0)


class QueryScores(ABC):
    """What a query says of N items."""

    size: int  # N

    @abstractmethod
    def of(self, items: Tensor) -> Tensor:
        """(n,) scores of items (n,)."""

    @abstractmethod
    def best(self, k: int, allowed: Tensor | None = None) -> BeamResult:
        """The k best allowed items: (1, k) twice, -1 and -inf for none. allowed: (N,) bool."""


class AllScores(QueryScores):
    """Scores of all items. values: (N,)."""

    def __init__(self, values: Tensor):
        self.values, self.size = values, len(values)

    def of(self, items: Tensor) -> Tensor:
        return self.values[items]

    def best(self, k: int, allowed: Tensor | None = None) -> BeamResult:
        scores = self.values if allowed is None else self.values.masked_fill(~allowed, float("-inf"))
        # Of equal scores the first items, as a stable sort of all would have them.
        least = scores.topk(min(k, len(scores))).values[-1]
        found = (scores >= least).nonzero()[:, 0]
        return _sorted(found, scores[found], k)


class ReadScores(QueryScores):
    """Scores of the items that are asked for, in a large catalogue.

    The best are looked for among the items with the highest scores of the words, and the items of the cells that are
    meant: a cell's prefix and its mean vector say how much. The score of each item is exact.
    """

    def __init__(self, scorer: QueryScorer, words: Sequence[str], query: Tensor | None):
        assert scorer.cells is not None
        self.scorer, self.cells, self.query = scorer, scorer.cells, query
        self.words = list(dict.fromkeys(words))  # a repeated word weighs more, but no other items have it
        self.size, self.by_words = len(scorer.codes), scorer.index.scores(words)
        self.log_p = None if query is None else scorer.code_probabilities(query)

    @torch.inference_mode()
    def of(self, items: Tensor) -> Tensor:
        found = self.by_words[items]
        if self.query is None or self.log_p is None:
            return found
        cosines = products(self.scorer.content, self.query, items)
        return found + MEANING * (code_sums(self.log_p, self.scorer.codes[items]) + CLOSENESS * cosines)

    @torch.inference_mode()
    def best(self, k: int, allowed: Tensor | None = None) -> BeamResult:
        most = max(READ, k)
        having = torch.as_tensor(self.scorer.index.having(self.words)).long()
        if allowed is not None:
            having = having[allowed[having]]
        having = having[self.by_words[having].topk(min(most * max(len(self.words), 1), len(having))).indices]
        found = torch.cat([having, *self._meant(most, allowed)]).unique()
        if allowed is not None:
            found = found[allowed[found]]
        return _sorted(found, self.of(found), k)

    def _meant(self, most: int, allowed: Tensor | None) -> list[Tensor]:
        """The items that are meant, and those that came after the training; where nothing is meant, the first items."""
        trained = len(self.cells.tree)
        if self.query is None or self.log_p is None:
            return [(torch.arange(self.size) if allowed is None else allowed.nonzero()[:, 0])[:most]]
        restriction = None if allowed is None else Restriction(self.cells.tree, allowed[:trained])
        bonus = code_sums(self.log_p, self.cells.prefixes[:, : len(self.log_p)])
        items, _ = self.cells.nearest([CLOSENESS * self.query[None]], most, restriction, bonus)
        return [items[0], torch.arange(trained, self.size)]


def _sorted(items: Tensor, scores: Tensor, k: int) -> BeamResult:
    """The k best of some items in catalogue order, as `QueryScores.best`."""
    values, order = scores.sort(descending=True, stable=True)
    return BeamResult(items[order].masked_fill(values == -torch.inf, -1)[None, :k], values[None, :k])


class QueryCandidates(NamedTuple):
    """Items that may be ranked high by a history and a query together, in catalogue order."""

    items: Tensor  # (C,)
    by_history: Tensor  # (C,)
    by_query: Tensor  # (C,)

    @classmethod
    def of(
        cls, search: Search, scores: QueryScores, k: int, allowed: Tensor | None, candidates: int = CANDIDATES
    ) -> QueryCandidates:
        """The best of the query, and the best of the history; with as many `candidates` as items, that is exact.

        Args:
            search: by one history. scores: of the query. k: items that are wanted. allowed: (N,) bool.
        """
        likely = scores.best(min(candidates, scores.size), allowed).items[0]
        mask = torch.zeros(scores.size, dtype=torch.bool)
        mask[likely[likely >= 0]] = True
        count = min(FROM_HISTORY * k, scores.size)
        found: dict[int, float] = {}
        for result in (search([0], mask, int(mask.sum())), search([0], allowed, count)):
            found |= zip(result.items[0].tolist(), result.scores[0].tolist(), strict=True)
        found.pop(-1, None)
        items = torch.tensor(sorted(found), dtype=torch.int64)
        return cls(items, torch.tensor([found[item] for item in items.tolist()]), scores.of(items))

    def ranked(self, weight: float, k: int) -> BeamResult:
        """The k best by the score of the history plus `weight` times that of the query."""
        total, order = (self.by_history + weight * self.by_query).sort(descending=True, stable=True)
        return BeamResult(self.items[order][None, :k], total[None, :k])


def with_history(search: Search, scores: QueryScores, weight: float, k: int, allowed: Tensor | None) -> BeamResult:
    """The k best items by both, as `QueryCandidates` finds and ranks them. With weight 0: what the search finds."""
    if weight == 0.0:
        return search([0], allowed, k)
    return QueryCandidates.of(search, scores, k, allowed).ranked(weight, k)
