"""Further modalities: read by item, standardised on their own, and refused where they do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.item_texts import embed_params, write_modality
from unigrec.base.errors import UnigrecError
from unigrec.embedding.encoder import fit_encoder, load_encoder, save_encoder
from unigrec.embedding.modality import read_modality


def test_modalities_are_standardised_apart_and_concatenated(catalogue, tmp_path):
    ids = catalogue["item_id"].to_pylist()
    images = np.random.default_rng(0).normal(50, [1, 10, 100], (len(ids) + 1, 3))
    shuffled = list(reversed(list(zip([*ids, "of no interest"], images.tolist(), strict=True))))
    file = write_modality(tmp_path / "images.parquet", [row[0] for row in shuffled], [row[1] for row in shuffled])
    encoder, embedding = fit_encoder(catalogue, embed_params(modalities=(file,)), seed=1)
    assert encoder.widths == [("text", 6), (file, 3)]
    text_only = fit_encoder(catalogue, embed_params(), seed=1)[1]
    np.testing.assert_array_equal(embedding[:, :6], text_only)
    assert embedding[:, 6:].var(axis=0).mean() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(np.corrcoef(embedding[:, 6], images[:-1, 0])[0, 1], 1, rtol=1e-5)

    save_encoder(encoder, tmp_path / "encoder")
    loaded = load_encoder(tmp_path / "encoder")
    np.testing.assert_array_equal(loaded.transform(catalogue, [read_modality(Path(file), ids)]), embedding)
    np.testing.assert_array_equal(loaded.transform(["red stapler"])[0, 6:], 0)  # unknown: the mean
    with pytest.raises(UnigrecError, match=r"expected \[\(1, 3\)\]"):
        loaded.transform(["red stapler"], [np.zeros((1, 2), np.float32)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids, rows: (ids[1:], rows[1:]), "1 of 30 items have no vector, for example .'item 0, é'"),
        (lambda ids, rows: ([*ids, ids[0]], [*rows, rows[0]]), "1 rows repeat an item_id"),
        (lambda ids, rows: (ids, [*rows[:4], [1.0], *rows[5:]]), "'item 4, é' has 1 values, the first item has 2"),
        (lambda ids, rows: (ids, [*rows[:4], [1.0, float("nan")], *rows[5:]]), "NaN or infinity.*'item 4, é'"),
        (lambda ids, rows: (ids, [*rows[:4], [1.0, None], *rows[5:]]), "NaN or infinity.*'item 4, é'"),
        (lambda ids, rows: (ids, [*rows[:4], None, *rows[5:]]), "'item 4, é' has 0 values"),
        (lambda ids, rows: (ids, [[1.0, 2.0]] * len(ids)), "same vector"),
    ],
    ids=["missing item", "repeated item", "wrong width", "NaN", "null inside", "null", "constant"],
)
def test_a_modality_that_does_not_fit_is_refused(catalogue, tmp_path, change, message):
    ids = catalogue["item_id"].to_pylist()
    rows = np.random.default_rng(0).normal(size=(len(ids), 2)).tolist()
    file = write_modality(tmp_path / "images.parquet", *change(ids, rows))
    with pytest.raises(UnigrecError, match=message):
        fit_encoder(catalogue, embed_params(modalities=(file,)), seed=1)


def test_a_modality_file_must_be_there_with_both_columns(tmp_path):
    with pytest.raises(UnigrecError, match=r"absent.parquet: no such file; embed.modalities"):
        read_modality(tmp_path / "absent.parquet", ["a"])
    pq.write_table(pa.table({"item_id": ["a"], "vector": [[1.0]]}), tmp_path / "other.parquet")
    with pytest.raises(UnigrecError, match="no column 'embedding'"):
        read_modality(tmp_path / "other.parquet", ["a"])
    pq.write_table(pa.table({"item_id": ["a"], "embedding": ["1.0"]}), tmp_path / "text.parquet")
    with pytest.raises(UnigrecError, match="expected a list of floats"):
        read_modality(tmp_path / "text.parquet", ["a"])
