"""Rows of item numbers: which of them repeat, and which are among others.

Shapes: B rows of X items, n items to compare with.
"""

from __future__ import annotations

import torch
from torch import Tensor


def seen_further_left(items: Tensor) -> Tensor:
    """(B, X) whether the same item stands further left in its row."""
    ordered, order = items.sort(dim=-1, stable=True)
    again = torch.zeros_like(items, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return again.scatter(1, order, again)


def places_among(items: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Where items (B, X) stand among the others (B, n) of their rows, and whether they are there: (B, X) twice."""
    ordered, order = others.sort(dim=-1)
    place = torch.searchsorted(ordered.contiguous(), items.contiguous()).clamp_max(ordered.shape[1] - 1)
    return order.gather(1, place), ordered.gather(1, place) == items
