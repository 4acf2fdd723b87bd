"""BM25 by hand."""

from __future__ import annotations

import numpy as np
import pytest

from unigrec.core.retrieval.word_index import WordIndex

TEXTS = [["red", "pen"], ["red", "pen", "with", "a", "cap", "pen"], ["blue", "pen"], ["ruler"], []]


def test_scores_are_those_of_the_formula():
    index = WordIndex.of(TEXTS)
    mean = 11 / 5

    def term(holders: int, times: int, length: int) -> float:
        idf = np.log(1 + (5 - holders + 0.5) / (holders + 0.5))
        return idf * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * length / mean))

    expected = [term(3, 1, 2) + term(2, 1, 2), term(3, 2, 6) + term(2, 1, 6), term(3, 1, 2), 0.0, 0.0]
    assert index.scores(["red", "pen"]).tolist() == pytest.approx(expected, rel=1e-6)
    assert index.scores(["red", "red"])[0] == pytest.approx(2 * term(2, 1, 2), rel=1e-6)


def test_every_text_finds_itself_and_unknown_words_find_nothing():
    index = WordIndex.of(TEXTS)
    assert [int(index.scores(text).argmax()) for text in TEXTS[:4]] == [0, 1, 2, 3]
    assert not index.scores(["xyzzy"]).any()
    assert WordIndex.of([[], []]).scores(["pen"]).tolist() == [0.0, 0.0]
