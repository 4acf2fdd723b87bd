"""The repeat bias: what a model adds to the score of an item that the history already holds.

In many shops nobody buys the same item twice; in others most purchases are repeats. A softmax over the products of a
state and item embeddings cannot learn either. So eight numbers are learned, one per number of steps since the item came
last. Both the teacher and the recommender have them.

Shapes: B histories of n items, m ends per history, P places of a mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

BUCKETS = 8  # 1, 2, ... 7 steps ago, and 8 or more
RATE = 0.01  # learning rate: at the rate of the other weights the numbers would move too slowly to matter


class RepeatBias(nn.Module):
    """One learned number per bucket, zero at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(BUCKETS))

    def forward(self, items: Tensor, ends: Tensor) -> Tensor:
        """The bias of each place of the histories, for the items as candidates to come next.

        Args:
            items: (B, n) item indices, padded on the right with any item.
            ends: (B, m) lengths of history, at least 0: only the items before an end have happened.

        Returns:
            (B, m, n); 0 at a place after the end, and where the same item comes again before the end. So each item of a
            history has one bias, that of its last occurrence.
        """
        buckets, counts = repeat_buckets(items, ends)
        return torch.where(counts, self.weight[buckets], 0.0)

    def at_places(self, items: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What is added to the scores after each place of the mask.

        Args:
            items: (B, n) item indices. mask: (B, n) places; the items up to a place have happened.

        Returns:
            (P, n) items and (P, n) their bias, row by row of the mask. Zeros stand for no item, as in `forward`.
        """
        ends = torch.arange(1, items.shape[1] + 1, device=items.device).expand(len(items), -1)
        return items.repeat_interleave(mask.sum(1), dim=0), self(items, ends)[mask]


def repeat_buckets(items: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """(B, m, n) bucket of each place, and whether the place is the last occurrence of its item before the end.

    Arguments as for `RepeatBias.forward`.
    """
    place = torch.arange(items.shape[1], device=items.device)
    again = (items[:, :, None] == items[:, None, :]) & (place > place[:, None])  # (B, n, n) the same item, later
    if not items.shape[1]:
        return items.new_zeros(*ends.shape, 0), torch.zeros(*ends.shape, 0, dtype=torch.bool, device=items.device)
    next_place = torch.where(again, place, items.shape[1]).amin(-1)  # (B, n)
    ends = ends[..., None]
    counts = (place < ends) & (next_place[:, None] >= ends)
    return (ends - place - 1).clamp(0, BUCKETS - 1), counts


def parameter_groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """A model's trainable parameters, as the optimizer wants them: its repeat biases are a group of their own."""
    biases = [module.weight for module in model.modules() if isinstance(module, RepeatBias)]
    inside = {id(parameter) for parameter in biases}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in inside]
    groups = [{"params": rest, "lr": lr, "weight_decay": weight_decay}]
    return [*groups, {"params": biases, "lr": RATE, "weight_decay": 0.0}] if biases else groups
