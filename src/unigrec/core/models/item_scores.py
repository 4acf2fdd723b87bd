"""Scores of whole items from logits of their codes: what a set decoder gives.

    score(i) = sum_l logits_l[c_l(i)] + what the repeat bias adds to i

Items are many and codes are few, so a sum over the codes of every item, and its transpose, are the work of a set
decoder. Both are done as bags of rows: values of the catalogue have shape (N, P), with a column per target.

Shapes: P targets, N items, T codes per identifier, C codes of all positions together, n items per history.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_COLUMNS = 4  # a bag of narrower rows takes torch ten times as long


class CodeSums:
    """Sums over the codes of items and over the items of codes, for one set of identifiers.

    Args:
        identifiers: (N, T). sizes: number of codes per position; their sum is C.
    """

    def __init__(self, identifiers: Tensor, sizes: Sequence[int]):
        shift = torch.tensor([0, *sizes[:-1]], device=identifiers.device).cumsum(0)
        self.codes = identifiers + shift  # (N, T), each in 0 .. C - 1
        self.size = sum(sizes)
        self._of_codes: tuple[Tensor, Tensor] | None = None

    def of_items(self, values: Tensor) -> Tensor:
        """For each item the sum of its codes' rows: (C, P) -> (N, P)."""
        columns = values.shape[1]
        if columns < LEAST_COLUMNS:
            values = F.pad(values, (0, LEAST_COLUMNS - columns))
        return F.embedding_bag(self.codes, values, mode="sum")[:, :columns]

    def of_codes(self, values: Tensor) -> Tensor:
        """For each code the sum of the rows of its items: (N, P) -> (C, P). The transpose of `of_items`."""
        if self._of_codes is None:
            order = self.codes.flatten().argsort(stable=True)
            starts = torch.bincount(self.codes.flatten(), minlength=self.size).cumsum(0).roll(1)
            starts[0] = 0
            self._of_codes = order // self.codes.shape[1], starts
        return F.embedding_bag(self._of_codes[0], values, self._of_codes[1], mode="sum")


class ItemScores(NamedTuple):
    """Scores of all items for P targets, not yet summed."""

    codes: Tensor  # (P, C) logits of each position's codes, position by position
    items: Tensor | None = None  # (P, n) items of the histories, padded with any item; None without a repeat bias
    bonus: Tensor | None = None  # (P, n) what is added to their scores; 0 where a place adds nothing

    def columns(self, sums: CodeSums) -> Tensor:
        """(N, P) the scores. Without gradients: `set_losses` has its own."""
        scores = sums.of_items(self.codes.T.contiguous())
        if self.items is not None and self.bonus is not None:
            scores.scatter_add_(0, self.items.T, self.bonus.T)
        return scores
