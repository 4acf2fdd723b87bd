"""The losses of a set decoder against cross entropies over tables of all scores, in values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unigrec.core.models.ensemble import TeacherEnsemble
from unigrec.core.models.item_scores import CodeSums, ItemScores
from unigrec.core.models.sasrec import SASRec
from unigrec.core.training import set_losses as module
from unigrec.core.training.set_losses import TeacherDistribution, set_losses

SIZES = [3, 4]
IDENTIFIERS = torch.cartesian_prod(torch.arange(3), torch.arange(4))[[7, 0, 3, 11, 5, 2, 8, 1, 10, 4]]  # 10 items
ITEMS, TARGETS = len(IDENTIFIERS), torch.tensor([3, 0, 9, 0, 6])
HISTORIES = torch.tensor([[3, 1, 3], [2, 0, 0], [9, 9, 9], [4, 0, 5], [1, 2, 0]])  # items come again


def summed(logits: Tensor) -> Tensor:
    """(P, C) -> (P, N), written out."""
    return logits[:, IDENTIFIERS[:, 0]] + logits[:, SIZES[0] + IDENTIFIERS[:, 1]]


def distribution(members: int) -> TeacherDistribution:
    torch.manual_seed(1)
    teachers = [SASRec(ITEMS, 8, blocks=1, heads=2, history=3, dropout=0.0, repeat_bias=True) for _ in range(members)]
    for teacher in teachers:
        torch.nn.init.normal_(teacher.item_embedding.weight)
        torch.nn.init.normal_(teacher.repeat_bias.weight)
    ensemble = TeacherEnsemble(teachers).double().eval()
    lengths = torch.tensor([3, 1, 3, 3, 2])
    last = torch.arange(3) == lengths[:, None] - 1
    with torch.no_grad():
        return TeacherDistribution(ensemble, ensemble.states_at(HISTORIES, lengths, last))


@pytest.mark.parametrize("rows", [2, 128])
@pytest.mark.parametrize("bias", [True, False])
def test_losses_and_gradients_are_those_of_cross_entropies_over_all_items(monkeypatch, rows, bias):
    monkeypatch.setitem(module.SCORES_AT_A_TIME, "cpu", rows * ITEMS)
    torch.manual_seed(0)
    logits = torch.randn(5, sum(SIZES), dtype=torch.float64, requires_grad=True)
    bonus = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    inputs = [logits, bonus] if bias else [logits]
    teacher, weights = distribution(2), torch.randn(2, 5, dtype=torch.float64)

    found = set_losses(
        ItemScores(logits, HISTORIES, bonus) if bias else ItemScores(logits),
        TARGETS,
        CodeSums(IDENTIFIERS, SIZES),
        teacher,
    )
    scores = summed(logits)
    if bias:
        scores = scores.scatter_add(1, HISTORIES, bonus)
    taught = teacher.columns(slice(0, 5)).T.softmax(-1)
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


@pytest.mark.parametrize("columns", [1, 6])
def test_sums_over_codes_and_their_transpose_are_those_of_their_definition(columns):
    sums = CodeSums(IDENTIFIERS, [*SIZES[:1], 6])  # the last two codes have no item
    incidence = torch.zeros(ITEMS, 9)
    for item, (first, second) in enumerate(IDENTIFIERS.tolist()):
        incidence[item, first] = incidence[item, 3 + second] = 1.0
    values, of_items = torch.randn(9, columns), torch.randn(ITEMS, columns)
    torch.testing.assert_close(sums.of_items(values), incidence @ values)
    torch.testing.assert_close(sums.of_codes(of_items), incidence.T @ of_items)
