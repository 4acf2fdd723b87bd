"""Embedding: the saved encoder embeds a new item exactly as the catalogue was, and bad vectors stop it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from support.item_texts import embed_params, items
from unigrec.base.errors import UnigrecError
from unigrec.embedding.encoder import fit_encoder, item_texts, load_encoder, save_encoder


def test_a_saved_encoder_gives_the_same_bits(catalogue, tmp_path):
    encoder, embedding = fit_encoder(catalogue, embed_params(), seed=1)
    save_encoder(encoder, tmp_path / "encoder")
    loaded = load_encoder(tmp_path / "encoder")
    assert embedding.dtype == np.float32
    assert embedding.shape == (catalogue.num_rows, loaded.dimensions)
    np.testing.assert_array_equal(loaded.transform(catalogue), embedding)
    np.testing.assert_array_equal(loaded.transform(catalogue.slice(7, 1))[0], embedding[7])  # nothing beside it matters
    assert (loaded.text_columns, loaded.notes) == (encoder.text_columns, encoder.notes)
    assert {file.suffix for file in (tmp_path / "encoder").iterdir()} == {".json", ".safetensors"}


def test_a_new_item_lands_beside_its_twin(catalogue):
    encoder, embedding = fit_encoder(catalogue, embed_params(dimensions=10), seed=1)
    (new,) = encoder.transform(["Red office-chair (2026 edition!)"])
    similarity = embedding @ new / np.linalg.norm(embedding, axis=1)
    assert catalogue["title"][int(similarity.argmax())].as_py() == "red office chair"


def test_texts_and_a_table_with_those_texts_are_embedded_alike(catalogue):
    encoder, embedding = fit_encoder(catalogue, embed_params(), seed=1)
    np.testing.assert_array_equal(encoder.transform(item_texts(catalogue, ("title", "brand"))), embedding)
    assert encoder.transform([]).shape == (0, encoder.dimensions)


def test_text_columns_are_joined_in_the_order_asked_for():
    table = items(["red\n  stapler", None, " "])
    assert item_texts(table, ("brand", "absent", "title")) == ["Acme. red stapler", "", ""]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (items(["a b", "c d"]).drop_columns(["title", "brand"]), "none of the text columns"),
        (items([None, ""]).drop_columns(["brand"]), "none of the 2 items has a text"),
        (items(["!!!", "..."]).drop_columns(["brand"]), "hold no word"),
        (items(["same pen", "same pen"]).drop_columns(["brand"]), "same vector"),
        (pa.table({"item_id": ["a"], "title": [1.5]}), "holds double, not text"),
    ],
    ids=["no column", "no text", "no word", "one text", "numbers"],
)
def test_texts_that_cannot_be_embedded_are_refused(table, message):
    with pytest.raises(UnigrecError, match=message):
        fit_encoder(table, embed_params(), seed=1)


def test_a_damaged_encoder_is_refused(catalogue, tmp_path):
    save_encoder(fit_encoder(catalogue, embed_params(), seed=1)[0], tmp_path / "encoder")
    (tmp_path / "encoder/encoder.safetensors").write_bytes(b"cut off")
    with pytest.raises(UnigrecError, match="damaged"):
        load_encoder(tmp_path / "encoder")
    with pytest.raises(UnigrecError, match="no such file"):
        load_encoder(tmp_path / "absent")


def test_importing_the_module_loads_no_text_library():
    modules = "('sklearn', 'sentence_transformers')"
    code = f"import sys, unigrec.embedding.encoder; print([m for m in {modules} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
