"""The operators for a CPU equal torch's, in values and in gradients."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F

from unigrec.core.models.cpu import operators
from unigrec.core.models.cpu.operators import draw_dropout_mask, linear


def test_dropout_places_are_independent_and_follow_the_seed():
    torch.manual_seed(0)
    mask = draw_dropout_mask(torch.Size([1000, 1001]), 0.5).float() - 0.5
    for lag in (1, 2, 3, 4, 1001):  # neighbours come from the same 64 random bits
        flat = mask.flatten()
        assert (flat[:-lag] * flat[lag:]).mean().abs() < 2e-3
    torch.manual_seed(0)
    assert torch.equal(mask, draw_dropout_mask(torch.Size([1000, 1001]), 0.5).float() - 0.5)


def test_a_mask_is_that_of_one_draw_however_many_entries_are_made_at_once():
    found = []
    for entries in (1 << 20, 8):
        torch.manual_seed(0)
        with patch.object(operators, "ENTRIES_AT_ONCE", entries):
            found.append((draw_dropout_mask(torch.Size([7, 11]), 0.3), torch.rand(3)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(("width_in", "width_out"), [(5, 9), (9, 5)])
def test_linear_equals_torchs_in_values_and_gradients(width_in, width_out):
    torch.manual_seed(0)
    rows, weight, bias = torch.randn(2, 3, width_in), torch.randn(width_out, width_in), torch.randn(width_out)
    upstream, results = torch.randn(2, 3, width_out), []
    for layer in (linear, F.linear):
        given = [tensor.clone().requires_grad_() for tensor in (rows, weight, bias)]
        found = layer(*given)
        found.backward(upstream)
        results.append((found, *(tensor.grad for tensor in given)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_linear_without_rows_gives_gradients_of_zero():
    weight = torch.randn(4, 3, requires_grad=True)
    linear(torch.zeros(0, 3), weight).sum().backward()
    assert torch.equal(weight.grad, torch.zeros(4, 3))


def test_linear_under_autocast_is_rounded_and_its_gradients_are_single_precision():
    torch.manual_seed(0)
    rows, weight = torch.randn(6, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear(rows, weight)
    found.float().sum().backward()
    assert found.dtype == torch.bfloat16
    assert rows.grad.dtype == weight.grad.dtype == torch.float32
    torch.testing.assert_close(found.float(), rows @ weight.T, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_products_are_the_same_by_either_library(onednn: bool, activation: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(operators, "ONEDNN", onednn)
    rows, weight = torch.randn(20, 3).double(), torch.randn(5, 3).double()
    expected = rows @ weight.T
    found = operators.cpu_matmul(rows.float(), weight.float(), activation)
    torch.testing.assert_close(found, (expected.relu() if activation == "relu" else expected).float())


@pytest.mark.parametrize(
    ("told", "expected"), [("vendor_id\t: GenuineIntel\n", True), ("vendor_id\t: AuthenticAMD\n", False), (None, False)]
)
def test_the_processor_says_who_made_it(tmp_path: Path, told: str | None, expected: bool):
    if told is not None:
        (tmp_path / "cpuinfo").write_text(told)
    assert operators.is_from_intel(tmp_path / "cpuinfo") is expected
