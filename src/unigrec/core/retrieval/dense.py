"""Every item scored for a history by the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unigrec.core.models.sasrec import SASRec

if TYPE_CHECKING:
    pass


@torch.no_grad()
def teacher_scores(model: SASRec, items: np.ndarray, lengths: np.ndarray, device: torch.device) -> Tensor:
    """(B, T), (B,) -> (B, N) scores of the item after each history."""
    model.eval()
    hidden = model.last_hidden(torch.as_tensor(items, device=device), torch.as_tensor(lengths, device=device))
    return model.scores(hidden)
