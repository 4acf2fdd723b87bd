"""What the tokenizer reads of an item: its content, and its part of the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unigrec.core.models.linear_map import ridge_regression

if TYPE_CHECKING:
    pass


def item_vectors(content: Tensor, teacher: Tensor, weight: float) -> Tensor:
    """What the tokenizer reads of each item: its content, and beside it what the teacher makes of it.

    Items that are bought alike then share codes, not only those that are described alike. The published tokenizer reads
    content alone; reading collaborative embeddings is the way of ETEGRec (arXiv 2409.05546).

    Args:
        content: (N, D) item embeddings. teacher: (N, E) the teacher's. weight: of the teacher's part: it is centred and
            scaled so that its total variance is `weight` squared times that of the content.

    Returns:
        (N, D + E), or the content itself where the weight is 0.
    """
    if weight == 0.0:
        return content
    return torch.cat([content, collaborative_part(content, teacher, weight)], dim=1)


def collaborative_part(content: Tensor, teacher: Tensor, weight: float) -> Tensor:
    """The teacher's part of `item_vectors`: (N, E), or (N, 0) where the weight is 0."""
    if weight == 0.0:
        return content[:, :0]
    centred = teacher - teacher.mean(0)
    scale = content.var(0).sum() / centred.var(0).sum().clamp_min(1e-12)
    return weight * scale.sqrt() * centred


def continued_part(teacher: Tensor, part: Tensor, known: np.ndarray, ridge: float = 1e-2) -> Tensor:
    """The teacher's part of `item_vectors` when an earlier tokenizer is trained on.

    Two teachers that were trained apart agree up to a linear map at best, so that the tokenizer would read every item
    anew, and every identifier would change. Items that it knows therefore keep what it read of them; the others get
    what a map predicts, fitted on the known ones from today's teacher to the earlier one.

    Args:
        teacher: (N, E') today's teacher. part: (N, E) what the tokenizer read; rows of unknown items are not looked at.
        known: (N,) bool. ridge: as in `ridge_regression`.
    """
    there = torch.as_tensor(known)
    fitted = ridge_regression(teacher[there], part[there], ridge)
    return torch.where(there[:, None], part, teacher @ fitted.weight.T + fitted.bias)
