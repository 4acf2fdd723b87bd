"""Dropout and RMSNorm equal torch's, in values and in gradients."""

from __future__ import annotations

import pytest
import torch

from unigrec.core.models.layers import Dropout, RMSNorm


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_asked_share_and_the_mean(p):
    torch.manual_seed(0)
    layer, ones = Dropout(p), torch.ones(400, 501)
    found = layer(ones)
    kept = found != 0
    assert kept.float().mean() == pytest.approx(1 - p, abs=5e-3)
    torch.testing.assert_close(found[kept], torch.full_like(found[kept], 1 / (1 - p)))
    assert torch.equal(layer.eval()(ones), ones)


def test_dropout_has_the_gradient_of_its_mask():
    torch.manual_seed(0)
    given = torch.randn(5, 7, requires_grad=True)
    found = Dropout(0.4)(given)
    found.sum().backward()
    torch.testing.assert_close(given.grad, torch.where(found != 0, 1 / 0.6, 0.0))


def test_rms_norm_equals_torchs_in_values_and_gradients():
    torch.manual_seed(0)
    ours, theirs = RMSNorm(6), torch.nn.RMSNorm(6, eps=1e-6)
    weight, given, upstream = torch.randn(6), torch.randn(4, 3, 6), torch.randn(4, 3, 6)
    results = []
    for layer in (ours, theirs):
        torch.nn.init.zeros_(layer.weight).data.add_(weight)
        hidden = given.clone().requires_grad_()
        found = layer(hidden)
        found.backward(upstream)
        results.append((found, hidden.grad, layer.weight.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
