"""From a global batch of windows to the tensors of this rank."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.data.batches import Histories
from unigrec.distributed import rank_slice


class Samples(NamedTuple):
    """This rank's rows of a global batch. B_local samples, M distinct items among them, n history items."""

    items: Tensor  # (M,) catalogue indices of the distinct items
    occurrences: Tensor  # (M,) how often each occurs in histories and targets
    history: Tensor  # (B_local, n) rows of `items`
    lengths: Tensor  # (B_local,)
    targets: Tensor  # (B_local,) catalogue indices
    batch_targets: Tensor  # (B,) targets of the whole global batch
    batch_occurrences: int  # occurrences in the whole global batch


def make_samples(batch: Histories, device: torch.device) -> Samples:
    """Cut out this rank's rows and number their distinct items, so that the tokenizer runs once for each."""
    rows = rank_slice(len(batch.targets))
    history, lengths, targets = batch.items[rows], batch.lengths[rows], batch.targets[rows]
    there = np.arange(history.shape[1]) < lengths[:, None]
    items, inverse, counts = np.unique(np.r_[history[there], targets], return_inverse=True, return_counts=True)
    local = np.zeros_like(history)
    local[there] = inverse[: there.sum()]

    def tensor(values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, device=device)

    return Samples(
        items=tensor(items),
        occurrences=tensor(counts),
        history=tensor(local),
        lengths=tensor(lengths),
        targets=tensor(targets),
        batch_targets=tensor(batch.targets),
        batch_occurrences=int(batch.lengths.sum()) + len(batch.targets),
    )
