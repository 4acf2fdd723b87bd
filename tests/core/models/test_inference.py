"""A recommender arranged for inference is the same network."""

from __future__ import annotations

import pytest
import torch

from support.small import small_recommender
from support.small_catalogue import histories
from unigrec.core.models import inference
from unigrec.core.models.cpu import operators
from unigrec.core.models.inference import InferenceRecommender
from unigrec.core.models.layers import RMSNorm
from unigrec.core.models.recommender import Recommender


def with_gains(**changes: object) -> Recommender:
    """A recommender whose norms have gains of their own; new ones have 1 everywhere."""
    recommender = small_recommender(**changes)
    torch.manual_seed(1)
    for module in recommender.modules():
        if isinstance(module, RMSNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 2.0)
    return recommender.eval()


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_memory_and_logits_are_those_of_the_recommender(causal: bool, onednn: bool, monkeypatch: pytest.MonkeyPatch):
    for module in (inference, operators):
        monkeypatch.setattr(module, "ONEDNN", onednn)
    monkeypatch.setattr(inference, "MANY_ROWS", 1)
    recommender, (source, mask) = with_gains(causal=causal), histories()
    network = InferenceRecommender(recommender)
    with torch.inference_mode():
        for tokens in (1, source.shape[1], 2):
            cut, kept = source[:, :tokens], mask[:, :tokens]
            torch.testing.assert_close(network.encode(cut, kept)[kept], recommender.encode(cut, kept)[kept])
        hidden = torch.randn(2, 5, recommender.config.d_model)
        for position in range(recommender.config.levels):
            expected = recommender.position_logits(recommender.decoder.norm(hidden), position)
            torch.testing.assert_close(network.position_logits(hidden, position), expected)


def test_it_keeps_the_weights_of_the_moment_it_was_made():
    recommender, inputs = with_gains(), histories()
    network = InferenceRecommender(recommender)
    before = network.encode(*inputs)
    with torch.no_grad():
        for parameter in recommender.encoder.layers.parameters():
            parameter.mul_(2.0)
    assert torch.equal(network.encode(*inputs), before)
    assert not torch.equal(InferenceRecommender(recommender).encode(*inputs), before)


def test_a_thread_with_shorter_histories_does_not_disturb_one_with_longer_ones():
    class Shared(InferenceRecommender):
        """Whenever a bias is kept, another thread keeps that of two tokens right after it."""

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value[..., :2, :2] if name == "_encoder_bias" else value)

    recommender, (source, mask) = with_gains(), histories()
    expected = InferenceRecommender(recommender).encode(source, mask)
    assert torch.equal(Shared(recommender).encode(source, mask), expected)
