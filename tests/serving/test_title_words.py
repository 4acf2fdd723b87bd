"""The words of titles, counted, and the words that name a kind."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from unigrec.serving.title_words import KIND_WORDS, TELLING, TitleWords, title_words

TITLES = ["Laser printer Canon", "Ink for Canon", "Ink black", "", "Garden hose 3 m", "Rake, garden rake", "Tinte ÄÖ"]


@pytest.mark.parametrize("seed", range(5))
def test_kinds_are_those_of_a_count_of_each_word(seed):
    generator = np.random.default_rng(seed)
    titles = [" ".join(generator.choice(["ab", "cd", "ef", "gh", "ij"], 3)) for _ in range(30)] + TITLES
    codes = generator.integers(0, 6, len(titles)) * 2
    found = TitleWords.of(titles, codes)
    everywhere = Counter(word for title in titles for word in set(title_words(title)))
    assert {word: found.count(word) for word in found.rows} == everywhere
    for code in range(int(codes.max()) + 1):
        own = [title for title, other in zip(titles, codes, strict=True) if other == code]
        here = Counter(word for title in own for word in set(title_words(title)))
        tells = {
            word: count / len(own) * math.log(count / len(own) * len(titles) / everywhere[word])
            for word, count in here.items()
            if count >= min(TELLING, len(own))
        }
        assert found.kinds[code] == " ".join(sorted(tells, key=lambda word: (-tells[word], word))[:KIND_WORDS])


def test_without_a_word_nothing_has_a_name():
    found = TitleWords.of(["", "7"], np.array([0, 2]))
    assert (dict(found.rows), found.kinds) == ({}, ["", "", ""])
    assert found.count("word") == 0
