"""Okapi BM25: which items have the words of a query, and how rare those words are.

    score(i) = sum over words of idf(w) * n (K1 + 1) / (n + K1 (1 - B + B length_i / mean length))

n is how often the text of i has w. Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009.

Shapes: N items, W different words, p pairs of a word and an item whose text has it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

K1, B = 1.2, 0.75


class WordIndex(NamedTuple):
    """The items of each word, as compressed rows. A row's values are what the word adds to the scores."""

    rows: dict[str, int]  # row of each word
    starts: np.ndarray  # (W + 1,) int64, row r holds the entries starts[r] .. starts[r + 1]
    items: np.ndarray  # (p,) int32
    values: np.ndarray  # (p,) float32
    size: int  # N

    @classmethod
    def of(cls, texts: Iterable[Sequence[str]]) -> WordIndex:
        """texts: the words of each item, in catalogue order."""
        rows: dict[str, int] = {}
        words: list[int] = []
        times: list[int] = []
        sizes, lengths = [], []
        for text in texts:
            counts = Counter(text)
            words += [rows.setdefault(word, len(rows)) for word in counts]
            times += counts.values()
            sizes.append(len(counts))
            lengths.append(len(text))
        word, n = np.array(words, np.int64), np.array(times, np.float64)
        item, length = np.repeat(np.arange(len(sizes)), sizes), np.array(lengths, np.float64)
        in_items = np.bincount(word, minlength=len(rows))
        idf = np.log1p((len(sizes) - in_items + 0.5) / (in_items + 0.5))
        relative = length / max(length.mean(), 1.0) if len(length) else length
        values = idf[word] * n * (K1 + 1) / (n + K1 * (1 - B + B * relative[item]))
        order = np.argsort(word, kind="stable")
        starts = np.concatenate([[0], np.cumsum(in_items)])
        return cls(rows, starts, item[order].astype(np.int32), values[order].astype(np.float32), len(sizes))

    def scores(self, words: Iterable[str]) -> Tensor:
        """(N,) of a query's words; 0 for an item that has none of them."""
        found = np.zeros(self.size, np.float32)
        for word in words:
            row = self.rows.get(word)
            if row is not None:
                entries = slice(*self.starts[row : row + 2])
                found[self.items[entries]] += self.values[entries]  # a row has an item once
        return torch.from_numpy(found)
