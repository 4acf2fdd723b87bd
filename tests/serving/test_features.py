"""Features of items and users: what they say is what the bundle computes with."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from support.bundles import resign
from support.search_bundle import NAMES, TITLES, bundle_of
from support.tiny_model import DENSE_SHAPE, ITEMS
from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.commands import features as command
from unigrec.config.schema import EmbedParams
from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.embedding.encoder import fit_encoder, save_encoder
from unigrec.serving import features
from unigrec.serving.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(pristine) -> Bundle:
    return Bundle.load(pristine)


def test_soft_codes_are_the_most_probable_ones_and_the_first_are_the_hard_ones():
    torch.manual_seed(0)
    tokenizer = Tokenizer(embedding_dim=3, code_dim=2, hidden=[], levels=2, codebook_size=5).eval()
    vectors = torch.randn(7, 3)
    weights, codes = features.soft_codes(tokenizer, vectors, temperature=1e-6)
    assert codes[:, :, 0].tolist() == tokenizer.quantize_hard(tokenizer.encoder(vectors)).codes.tolist()
    assert torch.allclose(weights[:, :, 0], torch.ones(7, 2))
    softer, _ = features.soft_codes(tokenizer, vectors, temperature=1.0)
    exact = tokenizer.quantize_soft(tokenizer.encoder(vectors), 1.0).probabilities
    assert torch.allclose(softer, exact.sort(dim=-1, descending=True).values[..., : features.TOP])


def test_a_state_is_what_the_teacher_scores_with(bundle):
    table = features.user_features(bundle, ["u", "v", "w"], [["P3", "gone", "P4"], ["gone"], ["P5"]])
    assert table.schema == features.USER_SCHEMA
    assert table["known"].to_pylist() == [2, 0, 1]
    assert table["state"][1].as_py() is None
    state, model = torch.tensor(table["state"][0].as_py()), bundle.retrievers["dense"].model
    history = torch.tensor([[bundle.index_of["P3"], bundle.index_of["P4"]]])
    assert torch.allclose(state, model.last_hidden(history, torch.tensor([2]))[0], atol=1e-6)
    assert len(state) == DENSE_SHAPE["d_model"]


def test_items_have_their_prefixes_as_texts(bundle, monkeypatch):
    class Encoder:
        modalities = ()

        def transform(self, catalogue: pa.Table) -> object:
            return torch.ones(catalogue.num_rows, 6).numpy()

    monkeypatch.setattr(features, "load_encoder", lambda folder: Encoder())
    table = features.item_features(bundle, temperature=0.01)
    assert table.schema == features.ITEM_SCHEMA
    assert table.num_rows == ITEMS
    codes = bundle.identifiers[3].tolist()
    assert table["identifier"][3].as_py() == "-".join(map(str, codes))
    assert table["prefixes"][3].as_py()[0] == str(codes[0])
    assert not any(table["is_new"].to_pylist())


def test_features_of_vectors_that_the_bundle_does_not_hold_are_refused(tmp_path):
    """What the tokenizer reads of an item's further modalities is in the files that `embed` read alone."""
    bundle = bundle_of(tmp_path)
    images = pa.table({"item_id": NAMES, "embedding": torch.randn(ITEMS, 2).tolist()})
    files.write_table(tmp_path / "images.parquet", images)
    params = EmbedParams(
        encoder="tfidf-svd",
        model="",
        text_columns=("title",),
        dimensions=4,
        max_features=50,
        modalities=(str(tmp_path / "images.parquet"),),
    )
    encoder, embedding = fit_encoder(pa.table({"item_id": NAMES, "title": TITLES}), params, seed=0)
    assert embedding.shape == (ITEMS, 6)  # as the tokenizer reads it
    assert features.item_features(bundle, temperature=0.01).num_rows == ITEMS
    save_encoder(encoder, bundle.folder / "text_encoder")
    resign(bundle.folder)
    with pytest.raises(UnigrecError, match=r"text_encoder: .*images\.parquet.* does not hold"):
        features.item_features(Bundle.load(bundle.folder), temperature=0.01)


def test_a_temperature_of_zero_is_refused(tmp_path):
    with pytest.raises(UnigrecError, match="--temperature 0: expected a number above 0"):
        command.export_features(None, "champion", tmp_path, None, 0.0)


def test_files_are_written_where_they_are_asked_for(bundle, tmp_path):
    users = features.user_features(bundle, ["u"], [["P3"]])
    features.write_features(tmp_path / "new", users, users)
    assert files.read_table(tmp_path / "new/users.parquet").equals(users)
