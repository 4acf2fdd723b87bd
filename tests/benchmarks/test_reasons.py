"""The benchmark on reasons: the fall of the fused score, against asking again without the item."""

from __future__ import annotations

import numpy as np
import torch
from benchmarks.reasons import falls, lifts

from support.tiny_model import bundle_in
from unigrec.core.retrieval.baskets import Baskets
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.serving.bundle import Bundle


def test_a_fall_is_the_difference_of_two_fused_scores(tmp_path):
    retriever = Bundle.load(bundle_in(tmp_path)).retrievers[RankBy.FUSED]
    history, items = [3, 5, 2], torch.tensor([7, 1])

    def score(read: list[int], item: int) -> float:
        found = retriever.retrieve([read], 12)
        return float(found.scores[0][found.items[0] == item])

    found = falls(retriever, history, items)
    for place in range(3):
        without = history[:place] + history[place + 1 :]
        expected = [score(history, item) - score(without, item) for item in items.tolist()]
        assert torch.allclose(found[:, place], torch.tensor(expected), atol=1e-4)


def test_lifts_are_those_of_the_counted_pairs():
    baskets = Baskets(np.array([0, 1, 1]), np.array([1]), np.array([4]), np.array([4, 4]), total=100, by_day=True)
    found = lifts(baskets)([0, 1], torch.tensor([1]))
    assert found[0, 1] == 0
    assert found[0, 0] == torch.tensor(np.log(25.0) - 2.0).float()
