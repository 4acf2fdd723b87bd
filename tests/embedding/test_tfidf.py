"""TF-IDF and SVD: words of any script, no more dimensions than the texts span, the same bits for a seed."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from support.item_texts import embed_params, items
from unigrec.embedding.encoder import fit_encoder
from unigrec.embedding.tfidf import words_of


def test_the_same_seed_gives_the_same_bits_on_any_number_of_threads(catalogue):
    from threadpoolctl import threadpool_limits

    _, first = fit_encoder(catalogue, embed_params(), seed=3)
    with threadpool_limits(2):
        _, second = fit_encoder(catalogue, embed_params(), seed=3)
    np.testing.assert_array_equal(first, second)


def test_more_dimensions_than_the_texts_span_are_cut_with_a_note():
    encoder, embedding = fit_encoder(items(["red pen", "blue pen", "green desk"]), embed_params(dimensions=128), seed=1)
    assert embedding.shape == (3, 3)
    assert "embed.dimensions is 128, but 3 items with 6 different words" in encoder.notes[0]


def test_words_of_scripts_without_spaces_are_found():
    table = items(["红色钢笔", "蓝色钢笔", "赤いペン", "Красная ручка", "синяя ручка"])
    encoder, embedding = fit_encoder(table, embed_params(text_columns=("title",), dimensions=5), seed=1)
    assert np.abs(embedding).sum(axis=1).min() > 0
    (new,) = encoder.transform(["新钢笔"])
    assert (embedding @ new).argmax() in (0, 1)


@pytest.mark.parametrize(
    "text",
    [
        "लाल कुर्सी मेज़",  # Hindi: vowel signs, a sign of nasality, a dot below
        "বাংলা চেয়ার",  # Bengali
        "தமிழ் நாற்காலி",  # Tamil
        "เก้าอี้ ไม้",  # Thai: vowels and tones above
        "မြန်မာ ဘာသာ",  # Burmese
        "ខ្មែរ ភាសា",  # Khmer
        "שָׁלוֹם עולם",  # Hebrew with points
        "مُحَمَّد كتاب",  # Arabic with vowels
        "می‌خواهم کتاب",  # Persian: a joiner inside a word
        "क्‍ष श्री",  # Hindi with a joiner
        "tiếng việt",
        "q̇uite x̄bar",  # Latin letters with accents that have no code together
    ],
)
def test_words_stay_words_in_any_script(text):
    assert words_of(text) == text.split()
    assert words_of(unicodedata.normalize("NFD", text)) == words_of(text)
    assert words_of(f"«{text}», {text}!") == text.split() * 2


def test_words_that_differ_in_a_vowel_sign_differ():
    assert len({words_of(word)[0] for word in ("कल", "काल", "कुल", "कील")}) == 4


def test_capitals_whose_small_letters_have_a_mark_stay_in_their_word():
    assert words_of("DİZÜSTÜ") == ["di̇züstü"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("USB-C cable, 1,299.50 (2nd)", ["usb", "c", "cable", "1", "299", "50", "2nd"]),
        ("snake_case l'été Straße", ["snake_case", "l", "été", "straße"]),
        ("1️⃣ ⭐️ 🔥🛋️ 👩‍👩", ["1"]),  # selectors and joiners of emoji are no words
        ("\u0301 \u200d \ufe0f", []),
        ("東京タワー No.5", ["東", "京", "タ", "ワ", "ー", "no", "5"]),
    ],
)
def test_other_texts_are_cut_as_before(text, words):
    assert words_of(text) == words
