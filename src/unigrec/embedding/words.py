"""What a word is, and the TF-IDF vector of a few texts without scikit-learn: a served bundle embeds queries with it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

# Chinese and Japanese write no spaces: each of their characters is a word, as is any other run of letters or digits.
CHARACTERS = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
JOINERS = r"\u200c\u200d"  # between letters of one word, as in Persian and Indic scripts
VARIATION_SELECTORS = range(0xFE00, 0xFE10)  # marks that choose a glyph, most of them of emoji: no part of a word
LAST_MARK = 0x1F000  # above it are only more variation selectors


@cache
def word_pattern() -> str:
    """Regular expression of a word. Marks (vowel signs, accents, tones) belong to it, but `\\w` lacks them."""
    codes = (code for code in range(LAST_MARK) if code not in VARIATION_SELECTORS)
    marks = "".join(chr(code) for code in codes if unicodedata.category(chr(code)) in ("Mn", "Mc"))
    letters = rf"[^\W{CHARACTERS}]+"
    goes_on = rf"[{JOINERS}]*[{marks}]+(?:{letters})?|[{JOINERS}]+{letters}"
    return rf"[{CHARACTERS}]|{letters}(?:(?![ -~])(?:{goes_on}))*"  # the lookahead only saves time: ASCII has no marks


def plain(text: str) -> str:
    """Lower case, and one code per letter with its accents, where Unicode has one."""
    return unicodedata.normalize("NFC", text.lower())


def words_in(text: str) -> list[str]:
    """The words of a text, in their order, as the vocabulary has them."""
    return re.findall(word_pattern(), plain(text))


def tfidf_vector(
    words: Sequence[str], columns: Mapping[str, int], idf: np.ndarray, components: np.ndarray
) -> np.ndarray | None:
    """float32 (d,) the raw vector of one text, as `TfidfSvd.encode` has it up to rounding; None without a known word.

    Args:
        words: of the text. columns: row of each word in the other two. idf: (words,). components: (words, d).
    """
    counts = Counter(columns[word] for word in words if word in columns)
    if not counts:
        return None
    rows = np.array(sorted(counts))
    weights = (1.0 + np.log([counts[row] for row in rows.tolist()])) * idf[rows]
    return (weights / np.linalg.norm(weights) @ components[rows]).astype(np.float32)
