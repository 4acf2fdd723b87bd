"""The dense scorer: the teacher scores every item for each history."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unigrec.core.models.sasrec import SASRec


@torch.no_grad()
def teacher_scores(model: SASRec, items: np.ndarray, lengths: np.ndarray, device: torch.device) -> Tensor:
    """Histories (B, T) and lengths (B,) -> (B, N) scores of the next item."""
    model.eval()
    return model.scores(torch.as_tensor(items, device=device), torch.as_tensor(lengths, device=device))
