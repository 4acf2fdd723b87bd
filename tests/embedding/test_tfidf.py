"""TF-IDF and SVD: words of any script, no more dimensions than the texts span, the same bits for a seed."""

from __future__ import annotations

import numpy as np

from support.item_texts import embed_params, items
from unigrec.embedding.encoder import fit_encoder


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
