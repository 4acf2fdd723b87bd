"""Okapi BM25: which items have the words of a query, and how rare those words are.

    score(i) = sum over words of idf(w) * n (K1 + 1) / (n + K1 (1 - B + B length_i / mean length))

n is how often the text of i has w. Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009.

Shapes: N items, W different words, p pairs of a word and an item whose text has it.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

K1, B = 1.2, 0.75


class NumberedWords(NamedTuple):
    """The words of N texts, as numbers in the order in which they come first."""

    rows: dict[str, int]  # number of each word
    words: np.ndarray  # int32, of all texts, one after the other
    lengths: np.ndarray  # (N,) int64 words of each text

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pairs (p,) of a word and a text that has it, by words: word, text, and how often it has the word."""
        texts = max(len(self.lengths), 1)
        keys = self.words.astype(np.int64) * texts
        keys += np.repeat(np.arange(len(self.lengths)), self.lengths)
        keys, times = np.unique(keys, return_counts=True)
        return keys // texts, keys % texts, times


def numbered_words(texts: Iterable[Sequence[str]]) -> NumberedWords:
    """texts: the words of each."""
    rows: dict[str, int] = {}
    words, lengths = array("i"), array("q")
    for text in texts:
        words.extend([rows.setdefault(word, len(rows)) for word in text])
        lengths.append(len(text))
    return NumberedWords(rows, np.array(words, np.int32), np.array(lengths, np.int64))


class WordIndex(NamedTuple):
    """The items of each word, as compressed rows. A row's values are what the word adds to the scores."""

    rows: Mapping[str, int]  # row of each word
    starts: np.ndarray  # (W + 1,) int64, row r holds the entries starts[r] .. starts[r + 1]
    items: np.ndarray  # (p,) int32
    values: np.ndarray  # (p,) float32
    size: int  # N

    @classmethod
    def of(cls, texts: Iterable[Sequence[str]]) -> WordIndex:
        """texts: the words of each item, in catalogue order."""
        numbered = numbered_words(texts)
        word, item, n = numbered.pairs()
        size, length = len(numbered.lengths), numbered.lengths
        in_items = np.bincount(word, minlength=len(numbered.rows))
        idf = np.log1p((size - in_items + 0.5) / (in_items + 0.5))
        relative = length / max(length.mean(), 1.0) if size else length
        values = idf[word] * n * (K1 + 1) / (n + K1 * (1 - B + B * relative[item]))
        starts = np.concatenate([[0], np.cumsum(in_items)])
        return cls(numbered.rows, starts, item.astype(np.int32), values.astype(np.float32), size)

    def having(self, words: Iterable[str]) -> np.ndarray:
        """The items that have one of the words, in no order; an item that has several comes several times."""
        rows = [row for row in map(self.rows.get, words) if row is not None]
        return np.concatenate([self.items[:0], *(self.items[slice(*self.starts[row : row + 2])] for row in rows)])

    def scores(self, words: Iterable[str]) -> Tensor:
        """(N,) of a query's words; 0 for an item that has none of them."""
        found = np.zeros(self.size, np.float32)
        for word, times in Counter(words).items():  # a repeated word weighs more, and takes no more time
            row = self.rows.get(word)
            if row is not None:
                entries = slice(*self.starts[row : row + 2])
                found[self.items[entries]] += times * self.values[entries]  # a row has an item once
        return torch.from_numpy(found)
