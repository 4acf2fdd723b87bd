"""The weight of a query next to a history, where the best one is known."""

from __future__ import annotations

import pytest
import torch

from unigrec.core.retrieval.beam import BeamResult
from unigrec.core.training.search_weight import WEIGHTS, fit_search_weight

ITEMS = 40


class LowestFirst:
    """After every history, the lower an item's number, the better."""

    device = torch.device("cpu")

    def retrieve(self, histories, k, allowed):
        scores = -torch.arange(float(ITEMS))
        scores = scores if allowed is None else scores.masked_fill(~allowed, float("-inf"))
        values, items = scores.topk(k)
        return BeamResult(items[None], values[None])


def test_items_are_masked_on_the_device_of_the_search():
    asked = []

    class Elsewhere(LowestFirst):
        device = torch.device("meta")

        def retrieve(self, histories, k, allowed):
            asked.append(None if allowed is None else allowed.device.type)
            return super().retrieve(histories, k, None if allowed is None else torch.ones(ITEMS, dtype=torch.bool))

    fit_search_weight(Elsewhere(), [[1]], [20], lambda row: torch.zeros(ITEMS))
    assert set(asked) == {None, "meta"}


@pytest.mark.parametrize(("says", "expected"), [(100.0, WEIGHTS[0]), (25.0, 1.0), (0.0, WEIGHTS[0])])
def test_the_smallest_weight_with_the_best_ndcg_is_taken(says, expected):
    """The query says that much of item 20, which the history puts 20 below the best one."""

    def scores(row):
        return torch.where(torch.arange(ITEMS) == 20, says, 0.0)

    assert fit_search_weight(LowestFirst(), [[1], [2, 3]], [20, 20], scores) == expected
