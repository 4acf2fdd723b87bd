"""The teacher's ranking as targets for the decoder: which code comes next, if the teacher chose the item.

An addition to the published method, whose distillation hands over the teacher's embeddings: this hands over what the
teacher would recommend. Shapes: B samples, N items, T decoder positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unigrec.models.sasrec import SASRec


@torch.no_grad()
def teacher_probabilities(teacher: SASRec, history: Tensor, lengths: Tensor, counts: Tensor) -> Tensor:
    """What the frozen teacher expects after each of the last `counts` (B,) items of histories.

    history: (B, n) catalogue indices, padded on the right by lengths (B,). Returns (P, N), row by row.
    """
    teacher.eval()
    steps = torch.arange(history.shape[1], device=history.device)
    wanted = (steps < lengths[:, None]) & (steps >= (lengths - counts)[:, None])
    return teacher.scores(teacher(history, lengths)[wanted]).softmax(-1)


@torch.no_grad()
def ranking_targets(probabilities: Tensor, all_codes: Tensor, codes: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """The distribution over each position's codes that a distribution over items implies.

    At position l it is conditional on the target's own codes before l, as teacher forcing is: the mass of the items
    with that prefix, by their code at l.

    Args:
        probabilities: (B, N). all_codes: (N, T) identifier of every item. codes: (B, T) of the targets.
        sizes: codes to choose from at each position.

    Returns:
        A (B, size) tensor a position; rows sum to 1, since the target itself has its prefix.
    """
    targets, mass = [], probabilities.clamp_min(1e-12)
    for position, size in enumerate(sizes):
        column = all_codes[:, position]
        by_code = torch.zeros(len(mass), size, device=mass.device, dtype=mass.dtype).index_add_(1, column, mass)
        targets.append(by_code / by_code.sum(1, keepdim=True))
        mass = mass * (column == codes[:, position : position + 1])
    return targets
