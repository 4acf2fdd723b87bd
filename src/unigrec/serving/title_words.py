"""The words of the titles: in how many titles each is, and which name the items of each first code.

Shapes: N items, W different words, C first codes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from unigrec.core.retrieval.word_index import numbered_words

KIND_WORDS = 2  # that name a kind
TELLING = 2  # items of a kind that a word must be in to name it
CLOSE = 1e-9  # of logarithms: numpy rounds them in its own way
WORD = re.compile(r"[^\W\d_]{2,}")


def title_words(title: str) -> list[str]:
    """In lower case, in their order."""
    return WORD.findall(title.lower())


class TitleWords(NamedTuple):
    """The words of N titles."""

    rows: Mapping[str, int]  # of each word, in the counts
    counts: np.ndarray  # (W,) int64, titles that have the word
    kinds: Sequence[str]  # (C,) the words that tell the items of a first code from all others; empty if there are none

    @classmethod
    def of(cls, titles: Iterable[str], codes: np.ndarray) -> TitleWords:
        """titles: of N items. codes: (N,) their first codes."""
        numbered = numbered_words(map(title_words, titles))
        word, item, _ = numbered.pairs()
        counts = np.bincount(word, minlength=len(numbered.rows))
        return cls(numbered.rows, counts, list(_kinds(list(numbered.rows), counts, word, codes[item], codes)))

    def count(self, word: str) -> int:
        """Titles that have a word. A word of a stored index may be missing: Python's letters differ by version."""
        row = self.rows.get(word)
        return 0 if row is None else int(self.counts[row])


def _kinds(
    names: list[str], counts: np.ndarray, word: np.ndarray, kind: np.ndarray, codes: np.ndarray
) -> Iterator[str]:
    """Of each code the words whose share in its titles is highest above that in all titles.

    word, kind: of each pair of a title and a word in it. codes: (N,).
    """
    sizes, total = np.bincount(codes), len(codes)
    keys, here = np.unique(kind * len(names) + word, return_counts=True)
    ends = np.searchsorted(keys, np.arange(len(sizes) + 1) * len(names))
    for code, size in enumerate(sizes.tolist()):
        rows = slice(*ends[code : code + 2])
        words, times = keys[rows] % max(len(names), 1), here[rows]
        words, times = (part[times >= min(TELLING, size)] for part in (words, times))
        tells = times / max(size, 1) * np.log(times / max(size, 1) * total / counts[words])
        if len(tells) > KIND_WORDS:
            likely = tells >= np.partition(tells, -KIND_WORDS)[-KIND_WORDS] - CLOSE
            words, times = words[likely], times[likely]
        found = {
            names[row]: count / size * math.log(count / size * total / int(counts[row]))
            for row, count in zip(words.tolist(), times.tolist(), strict=True)
        }
        yield " ".join(sorted(found, key=lambda name: (-found[name], name))[:KIND_WORDS])
