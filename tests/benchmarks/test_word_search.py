"""The baselines of the benchmark on search, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.word_search import Bm25, Cases, queries_of


def test_bm25_prefers_the_rare_word_and_the_short_text():
    scores = Bm25(["red pen", "red pen with a cap", "blue pen", "ruler"]).scores("red pen")
    assert np.argsort(-scores, kind="stable").tolist() == [0, 1, 2, 3]
    assert scores[3] == 0
    length = 1.2 * (0.25 + 0.75 * 1 / (10 / 4))
    assert Bm25(["red pen", "red pen with a cap", "blue pen", "ruler"]).scores("ruler")[3] == pytest.approx(
        np.log(1 + 3.5 / 1.5) * 2.2 / (1 + length)
    )


def test_queries_are_three_words_of_the_title_in_its_order():
    titles = ["one two three four", "a pen", None]
    found = queries_of(titles, np.array([0, 1, 2]), seed=1)
    assert found[1:] == [None, None]
    words = found[0].split()
    assert len(set(words)) == 3
    assert words == sorted(words, key=titles[0].split().index)
    assert Cases([[1], [1]], [5, 7], ["x", "y"]).recall([[1, 5], [2]]) == 0.5
