"""What the tokenizer reads of the teacher, in addition to each item's content embedding.

Shapes: N items, D and E numbers per embedding.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unigrec.core.models.linear_map import ridge_regression


def collaborative_part(content: Tensor, teacher: Tensor, weight: float) -> Tensor:
    """The teacher's part of what the tokenizer reads of each item; it follows the content embedding.

    Items that are bought by the same users then share codes, in addition to items with similar descriptions. The
    published tokenizer reads content alone; ETEGRec (arXiv 2409.05546) reads collaborative embeddings too.

    Args:
        content: (N, D) item embeddings. teacher: (N, E) the teacher's. weight: of the teacher's part, which is centred
            and scaled so that its total variance is `weight` squared times that of the content.

    Returns:
        (N, E), or (N, 0) if the weight is 0.
    """
    if weight == 0.0:
        return content[:, :0]
    centred = teacher - teacher.mean(0)
    scale = content.var(0).sum() / centred.var(0).sum().clamp_min(1e-12)
    return weight * scale.sqrt() * centred


def continued_part(teacher: Tensor, part: Tensor, known: np.ndarray, ridge: float = 1e-2) -> Tensor:
    """The same part if the training continues an earlier tokenizer.

    Two separately trained teachers agree at best up to a linear map. With today's teacher, the tokenizer would read
    other vectors for every item, and every identifier would change. So known items keep the vectors that the tokenizer
    read before. The others get what a linear map predicts, fitted on the known items from today's teacher to the
    earlier one.

    Args:
        teacher: (N, E') today's teacher. part: (N, E) what the tokenizer read; rows of unknown items are ignored.
        known: (N,) bool. ridge: as in `ridge_regression`.
    """
    mask = torch.as_tensor(known)
    fitted = ridge_regression(teacher[mask], part[mask], ridge)
    return torch.where(mask[:, None], part, teacher @ fitted.weight.T + fitted.bias)
