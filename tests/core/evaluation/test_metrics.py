"""Ranking metrics: by hand, or against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.ranks import rank_in_unseen
from support.small import few, sequences_of
from unigrec.core.evaluation.metrics import ndcg, rank_in_list, rank_in_scores, ranking_metrics, recall, seen_before


def test_recall_and_ndcg_by_hand():
    ranks = np.array([1, 2, 3, 10, 11, 0])
    assert recall(ranks, 3).tolist() == [1, 1, 1, 0, 0, 0]
    assert ndcg(ranks, 10) == pytest.approx([1.0, 1 / math.log2(3), 0.5, 1 / math.log2(11), 0.0, 0.0])
    metrics = ranking_metrics(ranks, [2, 10])
    assert metrics["recall_at_2"] == pytest.approx(2 / 6)
    assert metrics["recall_at_10"] == pytest.approx(4 / 6)
    assert metrics["ndcg_at_2"] == pytest.approx((1 + 1 / math.log2(3)) / 6)
    assert list(metrics) == ["recall_at_2", "recall_at_10", "ndcg_at_2", "ndcg_at_10"]


def test_of_equal_scores_the_lower_item_index_comes_first():
    scores = torch.tensor([[0.5, 0.9, 0.5, 0.5]]).expand(4, -1)
    assert rank_in_scores(scores, torch.tensor([0, 1, 2, 3])).tolist() == [2, 1, 3, 4]


def test_masked_ranking_leaves_seen_items_out_and_a_seen_target_gets_rank_zero():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6]]).expand(3, -1)
    seen = torch.tensor([[0, 1, 1], [0, -1, -1], [3, 0, -1]])
    targets = torch.tensor([3, 2, 3])
    assert rank_in_scores(scores, targets).tolist() == [4, 3, 4]
    assert rank_in_unseen(scores, targets, seen).tolist() == [2, 2, 0]


@few
@given(st.integers(0, 10_000), st.booleans())
def test_ranks_equal_those_of_a_plain_sort(seed: int, masked: bool):
    generator = np.random.default_rng(seed)
    scores = torch.as_tensor(generator.integers(0, 4, (6, 9))).float()  # many ties
    targets, seen = torch.as_tensor(generator.integers(0, 9, 6)), torch.as_tensor(generator.integers(-1, 9, (6, 5)))
    found = rank_in_unseen(scores, targets, seen) if masked else rank_in_scores(scores, targets)
    for row in range(6):
        hidden = set(seen[row].tolist()) if masked else set()
        order = sorted(set(range(9)) - hidden, key=lambda item: (-float(scores[row, item]), item))
        target = int(targets[row])
        assert found[row] == (order.index(target) + 1 if target in order else 0)


def test_scores_that_are_not_numbers_never_make_a_target_look_good():
    nan = float("nan")
    scores = torch.tensor([[nan, nan, nan, nan], [nan, 0.5, nan, 0.1]])
    assert (rank_in_scores(scores, torch.tensor([1, 1])) >= torch.tensor([4, 3])).all()


def test_rank_in_list_is_zero_where_the_target_is_absent():
    items = torch.tensor([[4, 2, 7], [1, 3, -1], [-1, -1, -1]])
    assert rank_in_list(items, torch.tensor([7, 0, 5])).tolist() == [3, 0, 0]


def test_seen_before_is_everything_before_the_held_out_item_and_nothing_else():
    sequences = sequences_of([5, 6, 7, 8], [1, 2, 3], items=9)
    assert seen_before(sequences, np.array([0, 1]), "test")[:, :3].tolist() == [[5, 6, 7], [1, 2, -1]]
    validation = seen_before(sequences, np.array([0, 1]), "validation")
    assert [set(row.tolist()) - {-1} for row in validation] == [{5, 6}, {1}]
