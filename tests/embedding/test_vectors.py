"""Standardising: one scale per modality, and the mean for items without text."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from support.item_texts import embed_params, items
from unigrec.embedding.encoder import fit_encoder, item_texts


def test_text_is_centred_and_scaled_by_one_number(catalogue):
    encoder, embedding = fit_encoder(catalogue, embed_params(), seed=1)
    raw = encoder.text.encode(item_texts(catalogue, ("title", "brand"))).vectors
    np.testing.assert_allclose(embedding.mean(axis=0), 0, atol=1e-6)
    assert embedding.var(axis=0).mean() == pytest.approx(1, abs=1e-5)
    ratio = embedding.var(axis=0) / raw.var(axis=0)  # the spectrum keeps its shape
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


def test_items_without_text_get_the_mean_and_are_counted(catalogue):
    table = items([*catalogue["title"].to_pylist(), None, "  "])
    table = table.set_column(table.column_names.index("brand"), "brand", pa.nulls(table.num_rows, pa.string()))
    encoder, embedding = fit_encoder(table, embed_params(), seed=1)
    np.testing.assert_array_equal(embedding[-2:], 0)
    assert encoder.notes[0].startswith("2 of 32 items have no text")
    np.testing.assert_array_equal(encoder.transform([None, "", "zzz unheard of"]), 0)
    described, _ = fit_encoder(table.slice(0, 30), embed_params(), seed=1)
    np.testing.assert_array_equal(encoder.standardisers[0].centre, described.standardisers[0].centre)
