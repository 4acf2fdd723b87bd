"""The teacher's ranking as targets for the decoder: which code comes next if the teacher chooses the item.

An addition to the published method. There, distillation uses the teacher's embeddings; here, it uses the items that the
teacher would recommend. The cross entropy of two distributions over items is, written code by code,

    - sum_i p(i) log q(i) = - sum_l E_{i ~ p} [ sum_c p(c | codes of i before l) log q(c | codes of i before l) ]

So the decoder is run on items that are sampled from the teacher. Its target at each position is the teacher's
distribution over the next code. A set decoder scores all items at once, so its target is the teacher's distribution
over items as it is (`set_losses`).

Shapes: P training samples, K best items of the teacher, R sampled items, N items, T decoder positions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.core.distributed import rank
from unigrec.core.losses import ranking_distillation_loss, recommendation_loss
from unigrec.core.models.item_scores import CodeSums, ItemScores
from unigrec.core.training.samples import Samples
from unigrec.core.training.set_losses import set_losses
from unigrec.core.training.teacher_items import Best


class Ranking(NamedTuple):
    """The teacher's ranking after each training sample."""

    codes: Tensor  # (P, R, T) identifiers of items that are sampled from the teacher's distribution
    targets: list[Tensor]  # (P, R, size) per position: the teacher's distribution over the next code; rows sum to 1


def uniform_numbers(samples: Samples, items: int, seed: int, step: int) -> Tensor:
    """(P, R) float64 numbers in [0, 1) that choose R items per sample, the same for any number of ranks."""
    # Every rank draws the numbers of the whole batch and takes its own part.
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))
    uniform = torch.rand(len(samples.batch_targets), items, generator=generator, dtype=torch.float64)
    return uniform.split(samples.batch_sizes)[rank()].to(samples.items.device)


def ranking_of(best: Best, uniform: Tensor, identifiers: Tensor, sizes: list[int]) -> Ranking:
    """Sample items, and follow their codes.

    Args:
        uniform: (P, R) as in `sample_places`. identifiers: (N, T). sizes: number of codes per position.
    """
    codes = identifiers[best.items]  # (P, K, T)
    sampled = sample_places(best.probabilities, uniform)
    chosen = codes.gather(1, sampled[..., None].expand(*sampled.shape, codes.shape[-1]))  # (P, R, T)
    return Ranking(chosen, code_distributions(codes, best.probabilities, chosen, sizes=sizes))


def codes_to_decode(codes: Tensor, ranking: Ranking | Best | None) -> Tensor:
    """Inputs of the decoder: the targets' codes (P, T), then those of the R sampled items -> (P, 1 + R, T)."""
    targets = codes[:, None]
    return torch.cat([targets, ranking.codes], dim=1) if isinstance(ranking, Ranking) else targets


def student_losses(
    logits: list[Tensor] | ItemScores,
    targets: Tensor,
    identifiers: Tensor,
    sums: CodeSums | None,
    ranking: Ranking | Best | None,
) -> tuple[Tensor, Tensor | None]:
    """(P,) recommendation loss and (P,) ranking distillation loss of each sample. The latter is None without a ranking.

    Args:
        logits: of `student_logits`, for `codes_to_decode` of the targets' codes and this ranking.
        targets: (P,) catalogue indices. identifiers: (N, T) of the catalogue. sums: of these, for a set decoder.
    """
    if isinstance(logits, ItemScores):
        assert sums is not None
        assert not isinstance(ranking, Ranking)
        return set_losses(logits, targets, sums, ranking)
    recommendation = recommendation_loss([scores[:, 0] for scores in logits], identifiers[targets])
    if ranking is None:
        return recommendation, None
    assert isinstance(ranking, Ranking)
    return recommendation, ranking_distillation_loss([scores[:, 1:] for scores in logits], ranking.targets).mean(1)


def sample_places(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """(P, R) places of each row, drawn by their probabilities (P, K). uniform: float64 (P, R) numbers in [0, 1)."""
    cumulative = probabilities.double().cumsum(1)
    places = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return places.clamp_max(probabilities.shape[1] - 1)


def code_distributions(codes: Tensor, probabilities: Tensor, chosen: Tensor, sizes: list[int]) -> list[Tensor]:
    """The distribution over each position's codes that a distribution over items implies, given the codes before it.

    Args:
        codes: (P, K, T) of the items. probabilities: (P, K) of these.
        chosen: (P, R, T) codes of some of them, which are followed. sizes: of each position.

    Returns:
        (P, R, size) per position; rows sum to 1.
    """
    targets = []
    mass = probabilities[:, None].expand(-1, chosen.shape[1], -1)  # (P, R, K) of the items with the same codes so far
    for position, size in enumerate(sizes):
        code = codes[:, None, :, position].expand(mass.shape)
        of_codes = mass.new_zeros(*chosen.shape[:2], size).scatter_add_(2, code, mass)
        targets.append(of_codes / of_codes.sum(2, keepdim=True))
        mass = mass * (code == chosen[:, :, None, position])
    return targets
