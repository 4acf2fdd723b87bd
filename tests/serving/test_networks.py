"""A network comes back from its files as it was. Forged files: tests/serving/test_poisoned_bundle.py."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from support.bundles import resign
from support.tiny_model import bundle_in, tiny_recommender
from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.core.models.sasrec import SASRec
from unigrec.serving.bundle import Bundle
from unigrec.serving.networks import load_network, load_recommender

WEIGHTS, CONFIG = Path("weights.safetensors"), Path("config.json")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_network_has_its_weights_in_memory_of_its_own_and_can_be_trained_on():
    expected = tiny_recommender(0)
    files.write_tensors(WEIGHTS, expected.state_dict())
    files.write_json(CONFIG, expected.config.to_dict())
    found = load_recommender(WEIGHTS, CONFIG)
    assert found.config == expected.config
    torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=0, atol=0)
    assert not found.training
    assert all(value.requires_grad and value.data_ptr() % 64 == 0 for value in found.parameters())


def test_values_of_the_config_may_be_replaced():
    expected = tiny_recommender(0)
    files.write_tensors(WEIGHTS, expected.state_dict())
    files.write_json(CONFIG, expected.config.to_dict())
    assert load_recommender(WEIGHTS, CONFIG, dropout=0.4).config == dataclasses.replace(expected.config, dropout=0.4)


def test_buffers_that_no_file_holds_are_computed():
    config = {"items": 5, "d_model": 4, "blocks": 1, "heads": 2, "history": 3, "dropout": 0.0, "filter_share": 0.5}
    expected = SASRec(**config).eval()
    files.write_tensors(WEIGHTS, expected.state_dict())
    files.write_json(CONFIG, config)
    found = load_network(lambda values: SASRec(**values), WEIGHTS, CONFIG)
    history, lengths = torch.tensor([[1, 2, 3]]), torch.tensor([3])
    torch.testing.assert_close(found(history, lengths), expected(history, lengths), rtol=0, atol=0)


def test_weights_of_another_shape_are_refused_by_the_name_of_their_file():
    config = {"items": 5, "d_model": 4, "blocks": 1, "heads": 2, "history": 3, "dropout": 0.0}
    files.write_tensors(WEIGHTS, SASRec(**config).state_dict())
    files.write_json(CONFIG, config | {"items": 10**12})
    with pytest.raises(
        UnigrecError, match=r"^weights.safetensors: the weights do not fit config.json: (.|\n)*item_embedding"
    ):
        load_network(lambda values: SASRec(**values), WEIGHTS, CONFIG)


def test_weights_of_a_type_that_cannot_be_compared_are_refused():
    config = {"items": 5, "d_model": 4, "blocks": 1, "heads": 2, "history": 3, "dropout": 0.0}
    weights = {name: value.to(torch.float8_e4m3fn) for name, value in SASRec(**config).state_dict().items()}
    save_file(weights, WEIGHTS)
    files.write_json(CONFIG, config)
    with pytest.raises(UnigrecError, match=r"^weights.safetensors: the weights do not fit config.json: .*Float8"):
        load_network(lambda values: SASRec(**values), WEIGHTS, CONFIG)


def test_a_huge_network_is_refused_without_being_built(tmp_path):
    folder = bundle_in(tmp_path)
    config = json.loads((folder / "recommender.json").read_text())
    (folder / "recommender.json").write_text(json.dumps(config | {"d_model": 1 << 24, "d_ff": 1 << 24}))
    resign(folder)
    with pytest.raises(UnigrecError, match="weights do not fit"):
        Bundle.load(folder)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    folder = bundle_in(tmp_path)
    path = folder / "recommender.safetensors"
    weights = files.read_tensors(path)
    weights["token_table.weight"][0, 0] = float("nan")
    files.write_tensors(path, weights)
    resign(folder)
    with pytest.raises(UnigrecError, match=r"not finite: token_table.weight"):
        Bundle.load(folder)
