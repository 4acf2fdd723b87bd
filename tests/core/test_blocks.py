"""Passes over large arrays in blocks."""

from __future__ import annotations

import pytest
import torch

from unigrec.core import blocks
from unigrec.core.blocks import all_finite, are_starts, products


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
def test_every_number_is_looked_at(monkeypatch, dtype):
    monkeypatch.setattr(blocks, "AT_ONCE", 4)
    values = torch.tensor([[-1.0, 0.0, 3.0], [4.0, -5.0, torch.finfo(dtype).max]], dtype=dtype)
    assert all_finite(values)
    for place in range(6):
        for broken in (float("nan"), float("inf"), -float("inf")):
            changed = values.flatten().clone()
            changed[place] = broken
            assert not all_finite(changed.view(2, 3))


def test_nothing_and_whole_numbers_are_finite():
    assert all_finite(torch.zeros(0, 3))
    assert all_finite(torch.arange(3))


def test_products_of_short_types_are_those_of_long_ones(monkeypatch):
    monkeypatch.setattr(blocks, "AT_ONCE", 7)
    rows, query = torch.randn(10, 3).half(), torch.randn(3)
    torch.testing.assert_close(products(rows, query), rows.float() @ query)
    for wanted in (torch.tensor([9, 0, 9, 4, 1]), torch.zeros(0, dtype=torch.int64)):
        torch.testing.assert_close(products(rows, query, wanted), rows[wanted].float() @ query)


@pytest.mark.parametrize(
    ("starts", "are"),
    [
        ([0, 2, 2, 5], True),
        ([0, 3, 2, 5], False),
        ([1, 2, 2, 5], False),
        ([0, 2, 2, 4], False),
        ([0, 2, 5], False),
        ([0, 3 * 2**61, -3 * 2**61, 5], False),  # differences in 64 bits are all above 0
    ],
)
def test_starts_are_those_of_ranges_that_follow_each_other(starts, are):
    assert are_starts(torch.tensor(starts), 3, 5) == are
