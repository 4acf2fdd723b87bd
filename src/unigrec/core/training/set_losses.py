"""The losses of a set decoder, without a table of targets by items that outlives its use.

Both losses are cross entropies over the whole catalogue: of the target, and of the teacher's distribution p over items.
With scores s(i) = sum_l logits_l[c_l(i)] + bonus(i), and with Z their log-sum-exp,

    - log q(target) = Z - s(target)
    - sum_i p(i) log q(i) = Z - sum_l sum_c p_l(c) logits_l[c] - sum_i p(i) bonus(i)

where p_l(c) is the teacher's probability of all items with the code c at position l. The gradient with respect to the
logits needs q_l(c), likewise summed over items. So a few targets at a time are scored over the catalogue, and only the
sums per code are kept: two rows of codes per target instead of some ten rows of items.

Shapes: P targets, N items, C codes of all positions together, n items per history.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from unigrec.core.models.item_scores import CodeSums, ItemScores
from unigrec.core.training.teacher_items import Best

SCORES_AT_A_TIME = {"cpu": 2**19, "cuda": 2**26}  # on a CPU, few enough to stay near the processor


def set_losses(scores: ItemScores, targets: Tensor, sums: CodeSums, best: Best | None) -> tuple[Tensor, Tensor | None]:
    """(P,) cross entropy of the targets (P,), and (P,) against the teacher's best items; None without these."""
    items = targets.new_empty(len(targets), 0) if scores.items is None else scores.items
    bonus = scores.codes.new_empty(items.shape) if scores.bonus is None else scores.bonus
    of_targets, of_teacher = _SetLosses.apply(scores.codes, bonus, items, targets, sums, best)
    return of_targets, None if best is None else of_teacher


class _PerCode(NamedTuple):
    """A distribution over items, summed per code, and as it is for the items of the history."""

    codes: Tensor  # (p, C)
    items: Tensor  # (p, n)


class _SetLosses(Function):
    """Arguments as of `set_losses`, with items and bonus (P, n) that may be empty."""

    @staticmethod
    def forward(
        ctx: Any,
        codes: Tensor,
        bonus: Tensor,
        items: Tensor,
        targets: Tensor,
        sums: CodeSums,
        best: Best | None,
    ) -> tuple[Tensor, Tensor]:
        of_targets, of_teacher = codes.new_empty(2, len(codes))
        # Not joined from parts: a rank without rows has none.
        predicted = _PerCode(torch.empty_like(codes), torch.empty_like(bonus))
        wanted = None if best is None else _PerCode(torch.empty_like(codes), torch.empty_like(bonus))
        step = max(SCORES_AT_A_TIME[codes.device.type] // len(sums.codes), 1)
        for start in range(0, len(codes), step):
            rows = slice(start, start + step)
            columns = ItemScores(codes[rows], items[rows], bonus[rows]).columns(sums)  # (N, p)
            chosen = columns.gather(0, targets[rows][None])[0]
            found, normaliser = _per_code(columns, sums, items[rows])
            predicted.codes[rows], predicted.items[rows] = found
            of_targets[rows] = normaliser - chosen
            if best is not None and wanted is not None:
                taught = _taught(Best(best.items[rows], best.probabilities[rows]), sums, items[rows])
                wanted.codes[rows], wanted.items[rows] = taught
                mean = torch.linalg.vecdot(taught.codes, codes[rows]) + torch.linalg.vecdot(taught.items, bonus[rows])
                of_teacher[rows] = normaliser - mean
        ctx.save_for_backward(items, targets, *predicted, *(wanted or ()))
        ctx.codes = sums.codes
        return of_targets, of_teacher

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_targets, of_teacher = (gradient[:, None] for gradient in gradients)  # (P, 1)
        items, targets, *kept = ctx.saved_tensors
        grad_codes, grad_bonus = ((of_targets + of_teacher) * part for part in kept[:2])
        for gradient, taught in zip((grad_codes, grad_bonus), kept[2:], strict=False):
            gradient.addcmul_(of_teacher, taught, value=-1)
        chosen = ctx.codes[targets]  # (P, T)
        grad_codes.scatter_add_(1, chosen, -of_targets.expand(chosen.shape))
        grad_bonus -= of_targets * (items == targets[:, None])
        return grad_codes, grad_bonus, None, None, None, None


def _per_code(columns: Tensor, sums: CodeSums, items: Tensor) -> tuple[_PerCode, Tensor]:
    """The softmax of logits (N, p), summed per code, and (p,) the log-sum-exp. The logits are overwritten."""
    top = columns.amax(0)
    total = columns.sub_(top).exp_().sum(0)
    of_items = columns.gather(0, items.T)
    return _PerCode((sums.of_codes(columns) / total).T, (of_items / total).T), top + total.log()


def _taught(best: Best, sums: CodeSums, items: Tensor) -> _PerCode:
    """The teacher's distribution, summed per code, and as it is for items (p, n)."""
    codes = sums.codes[best.items]  # (p, K, T)
    weights = best.probabilities[..., None].expand(codes.shape).flatten(1)
    per_code = weights.new_zeros(len(codes), sums.size).scatter_add_(1, codes.flatten(1), weights)
    same = items[:, :, None] == best.items[:, None]  # (p, n, K)
    return _PerCode(per_code, (same * best.probabilities[:, None]).sum(-1))
