"""The losses of a set decoder against cross entropies over tables of all scores, in values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unigrec.core.models.item_scores import CodeSums, ItemScores
from unigrec.core.training import set_losses as module
from unigrec.core.training.set_losses import set_losses
from unigrec.core.training.teacher_items import Best

SIZES = [3, 4]
IDENTIFIERS = torch.cartesian_prod(torch.arange(3), torch.arange(4))[[7, 0, 3, 11, 5, 2, 8, 1, 10, 4]]  # 10 items
ITEMS, TARGETS = len(IDENTIFIERS), torch.tensor([3, 0, 9, 0, 6])
HISTORIES = torch.tensor([[3, 1, 3], [2, 0, 0], [9, 9, 9], [4, 0, 5], [1, 2, 0]])  # items come again


def summed(logits: Tensor) -> Tensor:
    """(P, C) -> (P, N), written out."""
    return logits[:, IDENTIFIERS[:, 0]] + logits[:, SIZES[0] + IDENTIFIERS[:, 1]]


def best_items(count: int) -> Best:
    torch.manual_seed(1)
    best = torch.randn(5, ITEMS, dtype=torch.float64).topk(count)
    return Best(best.indices, best.values.softmax(-1))


@pytest.mark.parametrize("rows", [2, 128])
@pytest.mark.parametrize(("bias", "count"), [(True, ITEMS), (True, 4), (False, 4)])
def test_losses_and_gradients_are_those_of_cross_entropies_over_all_items(monkeypatch, rows, bias, count):
    monkeypatch.setitem(module.SCORES_AT_A_TIME, "cpu", rows * ITEMS)
    torch.manual_seed(0)
    logits = torch.randn(5, sum(SIZES), dtype=torch.float64, requires_grad=True)
    bonus = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    inputs = [logits, bonus] if bias else [logits]
    best, weights = best_items(count), torch.randn(2, 5, dtype=torch.float64)

    found = set_losses(
        ItemScores(logits, HISTORIES, bonus) if bias else ItemScores(logits),
        TARGETS,
        CodeSums(IDENTIFIERS, SIZES),
        best,
    )
    scores = summed(logits)
    if bias:
        scores = scores.scatter_add(1, HISTORIES, bonus)
    taught = torch.zeros_like(scores).scatter(1, best.items, best.probabilities)
    expected = F.cross_entropy(scores, TARGETS, reduction="none"), F.cross_entropy(scores, taught, reduction="none")

    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain)
    gradients = [
        torch.autograd.grad((torch.stack(losses) * weights).sum(), inputs, retain_graph=True)
        for losses in (found, expected)
    ]
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain)


def test_without_a_teacher_there_is_one_loss():
    logits = torch.randn(5, sum(SIZES), dtype=torch.float64, requires_grad=True)
    found, nothing = set_losses(ItemScores(logits), TARGETS, CodeSums(IDENTIFIERS, SIZES), None)
    assert nothing is None
    plain = F.cross_entropy(summed(logits), TARGETS, reduction="none")
    torch.testing.assert_close(found, plain)
    for ours, expected in zip(*(torch.autograd.grad(loss.sum(), logits) for loss in (found, plain)), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("taught", [True, False])
def test_a_rank_without_rows_has_losses_of_nothing_that_have_gradients(bias, taught):
    logits = torch.randn(0, sum(SIZES), requires_grad=True)
    bonus = torch.randn(0, 3, requires_grad=True)
    inputs = [logits, bonus] if bias else [logits]
    scores = ItemScores(logits, HISTORIES[:0], bonus) if bias else ItemScores(logits)
    best = Best(torch.zeros(0, 4, dtype=torch.int64), torch.zeros(0, 4)) if taught else None
    of_targets, of_teacher = set_losses(scores, TARGETS[:0], CodeSums(IDENTIFIERS, SIZES), best)
    assert (of_teacher is not None) == taught
    for loss in [of_targets] if of_teacher is None else [of_targets, of_teacher]:
        assert loss.sum() == 0.0
        gradients = torch.autograd.grad(loss.sum(), inputs, retain_graph=True)
        assert [found.shape for found in gradients] == [given.shape for given in inputs]


@pytest.mark.parametrize("columns", [1, 6])
def test_sums_over_codes_and_their_transpose_are_those_of_their_definition(columns):
    sums = CodeSums(IDENTIFIERS, [*SIZES[:1], 6])  # the last two codes have no item
    incidence = torch.zeros(ITEMS, 9)
    for item, (first, second) in enumerate(IDENTIFIERS.tolist()):
        incidence[item, first] = incidence[item, 3 + second] = 1.0
    values, of_items = torch.randn(9, columns), torch.randn(ITEMS, columns)
    torch.testing.assert_close(sums.of_items(values), incidence @ values)
    torch.testing.assert_close(sums.of_codes(of_items), incidence.T @ of_items)
