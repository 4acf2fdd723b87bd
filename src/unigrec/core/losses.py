"""One function per loss of the method (UniGRec, arXiv 2601.17438, sections 3.2 and 3.3).

Losses that are means over samples are returned per sample, so that the caller can weight them over ranks. Losses that
are defined only for a whole batch are returned as a scalar.

Shapes: B samples of the global batch, L levels, K codewords, T decoder positions, N items, E width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function


def recommendation_loss(logits: list[Tensor], codes: Tensor) -> Tensor:
    """Cross entropy of the target's codes, mean over positions.

    logits: T tensors (B, size of the position's range); codes: (B, T) int64 -> (B,).
    """
    losses = [
        F.cross_entropy(scores.float(), codes[:, position], reduction="none") for position, scores in enumerate(logits)
    ]
    return torch.stack(losses, dim=1).mean(1)


def ranking_distillation_loss(logits: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Cross entropy against the teacher's distribution over each position's codes, mean over positions.

    logits and targets: T tensors (..., size of the position's range) -> (...). Rows of the targets sum to 1.
    """
    losses = [
        -(target * scores.float().log_softmax(-1)).sum(-1) for scores, target in zip(logits, targets, strict=True)
    ]
    return torch.stack(losses).mean(0)


def reconstruction_loss(reconstructed: Tensor, embeddings: Tensor) -> Tensor:
    """Mean squared error over the dimensions of an embedding: (N, D), (N, D) -> (N,)."""
    return (reconstructed - embeddings).square().mean(-1)


def uniformity_loss(mean_assignment: Tensor) -> Tensor:
    """Negative entropy of the mean soft assignment, summed over levels: (L, K) -> scalar. Minimal at even usage."""
    # An unused codeword has p = 0 exactly. The clamp keeps its gradient finite.
    return (mean_assignment * mean_assignment.clamp_min(1e-12).log()).sum()


def symmetric_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) + KL(q || p), summed over levels: (B, L, K) twice -> (B,). Never negative."""
    # The softmax of log-probabilities gives the probabilities. `exp` of very small numbers is slow on some machines.
    return ((log_p.softmax(-1) - log_q.softmax(-1)) * (log_p - log_q)).sum((-1, -2))


def contrastive_loss(
    hidden: Tensor, teacher: Tensor, items: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """InfoNCE(hidden, teacher) + InfoNCE(teacher, hidden) with cosine similarity, mean over the batch.

    Negatives are the other distinct target items of the batch. A repeated target counts once among the negatives of
    others (its several states by the mean of their terms) and is never its own negative.

    Args:
        hidden: (B, d) student states. teacher: (B, d) teacher embeddings of the targets.
        items: (B,) target item of each sample. temperature: divides the cosines.
        weights: (B,) of the samples; those without weight are no negatives either. None: 1 each.
    """
    size = len(items)
    if weights is not None:
        hidden, teacher, items, weights = (rows[weights > 0] for rows in (hidden, teacher, items, weights))
    hidden, teacher = F.normalize(hidden, dim=-1), F.normalize(teacher, dim=-1)
    _, group, counts = items.unique(return_inverse=True, return_counts=True)  # group (B,): index of the distinct item
    row = torch.arange(len(items), device=items.device)
    first = torch.full((len(counts),), len(items), device=items.device).scatter_reduce(0, group, row, "amin")
    to_teacher = hidden @ teacher[first].T / temperature  # (B, distinct items)
    to_hidden = teacher @ hidden.T / temperature  # (B, B)
    negatives = (to_hidden - counts[group].log()).masked_fill(group[:, None] == group, float("-inf"))
    to_hidden = torch.where(row[:, None] == row, to_hidden, negatives)
    if weights is None:
        return F.cross_entropy(to_teacher, group) + F.cross_entropy(to_hidden, row)
    found = F.cross_entropy(to_teacher, group, reduction="none") + F.cross_entropy(to_hidden, row, reduction="none")
    return (found * weights).sum() / size


ROWS_AT_ONCE = 128  # rows of logits over the catalogue: few enough to stay in the processor's cache


class Bonus(NamedTuple):
    """What is added to some logits of each row: a value of 0 adds nothing, so it may stand for no item."""

    items: Tensor  # (B, n) int64 columns; several values of a column are summed
    values: Tensor  # (B, n)


def catalogue_cross_entropy(
    hidden: Tensor, table: Tensor, targets: Tensor, smoothing: float = 0.0, bonus: Bonus | None = None
) -> Tensor:
    """Mean cross entropy over the whole catalogue with logits `hidden @ table.T + bonus`, without storing all logits.

    Loss and gradients of some rows are computed together, while the logits of these rows are in the cache.

    Args:
        hidden: (B, E). table: (N, E). targets: (B,) int64. smoothing: share of the target spread evenly over all items.
        bonus: for some items of each row; gradients reach its values.

    Returns:
        The loss, a scalar. It can be differentiated once.
    """
    if bonus is None:
        bonus = Bonus(targets.new_empty(len(targets), 0), hidden.new_empty(len(targets), 0))
    result: Tensor = _CatalogueCrossEntropy.apply(hidden, table, targets, smoothing, *bonus)
    return result


def sampled_cross_entropy(
    hidden: Tensor, table: Tensor, targets: Tensor, log_weights: Tensor, bonus: Bonus | None = None
) -> Tensor:
    """As `catalogue_cross_entropy`, over items of which each stands for `exp(log_weights)` items.

    Args:
        hidden: (B, E). table: (C, E) drawn items. targets: (B,) int64 rows of the table. log_weights: (C,).
        bonus: as above; -log_weights for the target, which stands for itself alone.
    """
    logits_of_weights = hidden.new_ones(len(hidden), 1), log_weights[:, None]
    states, rows = (torch.cat(pair, dim=1) for pair in zip((hidden, table), logits_of_weights, strict=True))
    return catalogue_cross_entropy(states, rows, targets, bonus=bonus)


class _CatalogueCrossEntropy(Function):
    """The loss, with gradients that `forward` has computed already."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor, smoothing: float, items: Tensor, values: Tensor
    ) -> Tensor:
        rows = ROWS_AT_ONCE if hidden.device.type == "cpu" else 32 * ROWS_AT_ONCE
        grad_hidden, grad_table, grad_values = (
            torch.empty_like(hidden),
            torch.zeros_like(table),
            torch.empty_like(values),
        )
        total = hidden.new_zeros(())
        for start in range(0, len(hidden), rows):
            states, target = hidden[start : start + rows], targets[start : start + rows, None]
            columns = items[start : start + rows]
            logits = (states @ table.T).scatter_add_(1, columns, values[start : start + rows])
            # The part of the loss that is linear in the logits.
            target_logits = logits.gather(1, target)
            total += (1.0 - smoothing) * -target_logits.sum()
            if smoothing:
                total -= smoothing * logits.mean(1).sum()
            # Log of the softmax's denominator; from here on the logits' memory holds exponentials.
            largest = logits.amax(1, keepdim=True)
            exponentials = logits.sub_(largest).exp_()
            normaliser = exponentials.sum(1, keepdim=True)
            total += (normaliser.log() + largest).sum()
            # Gradient of the logits: softmax minus the smoothed target. It gives both other gradients at once.
            grad_logits = exponentials.div_(normaliser)
            if smoothing:
                grad_logits -= smoothing / len(table)
            grad_logits.scatter_add_(1, target, torch.full_like(target_logits, smoothing - 1.0))
            torch.gather(grad_logits, 1, columns, out=grad_values[start : start + rows])
            torch.mm(grad_logits, table, out=grad_hidden[start : start + rows])
            grad_table.addmm_(grad_logits.T, states)
        ctx.save_for_backward(*(grad.div_(len(hidden)) for grad in (grad_hidden, grad_table, grad_values)))
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None, None, Tensor]:
        grad_hidden, grad_table, grad_values = (grad * grad_outputs[0] for grad in ctx.saved_tensors)
        return grad_hidden, grad_table, None, None, None, grad_values
