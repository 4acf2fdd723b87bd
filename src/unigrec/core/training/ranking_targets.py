"""The teacher's ranking as targets for the decoder: which code comes next if the teacher chooses the item.

An addition to the published method. There, distillation uses the teacher's embeddings; here, it uses the items that the
teacher would recommend. The cross entropy of two distributions over items is, written code by code,

    - sum_i p(i) log q(i) = - sum_l E_{i ~ p} [ sum_c p(c | codes of i before l) log q(c | codes of i before l) ]

So the decoder is run on items that are sampled from the teacher. Its target at each position is the teacher's
distribution over the next code. A set decoder scores all items at once, so its target is the teacher's distribution
over items as it is (`set_losses`). Shapes: P training samples, R sampled items, N items, T decoder positions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.core.distributed import rank
from unigrec.core.losses import ranking_distillation_loss, recommendation_loss
from unigrec.core.models.ensemble import Teacher
from unigrec.core.models.item_scores import CodeSums, ItemScores
from unigrec.core.retrieval.prefix_tree import PrefixTree
from unigrec.core.training.samples import Samples
from unigrec.core.training.set_losses import TeacherDistribution, set_losses


class Ranking(NamedTuple):
    """The teacher's ranking after each training sample."""

    codes: Tensor  # (P, R, T) identifiers of items that are sampled from the teacher's distribution
    targets: list[Tensor]  # (P, R, size) per position: the teacher's distribution over the next code; rows sum to 1


class TeacherRanking:
    """A frozen teacher that ranks items, given their current identifiers.

    Args:
        sizes: number of codes per position. items: R, how many to sample per training sample.
        seed: of the sampled items, together with the step. They are the same for any number of ranks.
    """

    def __init__(self, teacher: Teacher, sizes: list[int], items: int, seed: int):
        self.teacher, self.sizes, self.items, self.seed = teacher.eval(), sizes, items, seed
        self.codes: Tensor | None = None

    def use_identifiers(self, codes: Tensor) -> None:
        """Rank by these distinct identifiers (N, T) from now on. Does nothing if this tensor is in use already."""
        if self.codes is not codes:
            self.codes = codes
            self.tree = PrefixTree(codes.cpu().numpy(), codes.device)
            self.in_tree_order = self.teacher.reordered(self.tree.order)

    def rank_samples(self, samples: Samples, step: int) -> Ranking:
        """The ranking for this rank's training samples."""
        # Every rank draws the numbers of the whole batch and takes its own part.
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([self.seed, step]).generate_state(1)[0]))
        uniform = torch.rand(len(samples.batch_targets), self.items, generator=generator, dtype=torch.float64)
        uniform = uniform.split(samples.batch_sizes)[rank()].to(samples.items.device)
        return self.rank_after(samples.items[samples.history], samples.lengths, samples.counts, uniform=uniform)

    @torch.no_grad()
    def rank_after(self, history: Tensor, lengths: Tensor, counts: Tensor, uniform: Tensor) -> Ranking:
        """The ranking after each of the last `counts` (B,) items of histories.

        history: (B, n) catalogue indices, padded on the right by lengths (B,). uniform: (P, R) as in `sample_items`.
        """
        assert self.codes is not None, "call use_identifiers first"
        # (P, N), items in the tree's order
        places = target_places(history, lengths, counts)
        probabilities = self.in_tree_order.scores_at(self.tree.rank[history], lengths, places).softmax(-1)
        sampled, cumulative = sample_items(probabilities, uniform)
        targets = code_distributions(self.tree, cumulative, sampled, sizes=self.sizes)
        return Ranking(self.codes[self.tree.order[sampled]], targets)


@torch.no_grad()
def teacher_distribution(teacher: Teacher, samples: Samples) -> TeacherDistribution:
    """What the frozen teacher expects to come next, at each of this rank's targets."""
    history = samples.items[samples.history]
    places = target_places(history, samples.lengths, samples.counts)
    return TeacherDistribution(teacher, teacher.states_at(history, samples.lengths, places))


def target_places(history: Tensor, lengths: Tensor, counts: Tensor) -> Tensor:
    """(B, n) true at each of the last `counts` (B,) items of histories (B, n): a target comes next."""
    steps = torch.arange(history.shape[1], device=history.device)
    return (steps < lengths[:, None]) & (steps >= (lengths - counts)[:, None])


def codes_to_decode(codes: Tensor, ranking: Ranking | TeacherDistribution | None) -> Tensor:
    """Inputs of the decoder: the targets' codes (P, T), then those of the R sampled items -> (P, 1 + R, T)."""
    targets = codes[:, None]
    return torch.cat([targets, ranking.codes], dim=1) if isinstance(ranking, Ranking) else targets


def student_losses(
    logits: list[Tensor] | ItemScores,
    targets: Tensor,
    identifiers: Tensor,
    sums: CodeSums | None,
    ranking: Ranking | TeacherDistribution | None,
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


def sample_items(probabilities: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Sample items of each row by their probabilities.

    probabilities (P, N), uniform random numbers in [0, 1) as float64 (P, R) -> (P, R) columns of the sampled items, and
    float64 (P, N + 1) cumulative probabilities.
    """
    cumulative = probabilities.new_empty(len(probabilities), probabilities.shape[1] + 1, dtype=torch.float64)
    cumulative[:, 0] = 0.0
    torch.cumsum(probabilities, 1, dtype=torch.float64, out=cumulative[:, 1:])
    columns = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True) - 1
    return columns.clamp(0, probabilities.shape[1] - 1), cumulative


def code_distributions(tree: PrefixTree, cumulative: Tensor, items: Tensor, sizes: list[int]) -> list[Tensor]:
    """The distribution over each position's codes that a distribution over items implies, given the codes before it.

    Args:
        cumulative: float64 (P, N + 1), cumulative probabilities of the items in the tree's order.
        items: (P, R) places in the tree's order of the items whose codes are followed. sizes: of each position.

    Returns:
        (P, R, size) per position; rows sum to 1.
    """
    # Start at the root. Each round goes one level down, to the node of the item's next code.
    node, targets = torch.zeros_like(items), []
    for level, below, size in zip(tree.levels, tree.levels[1:], sizes, strict=False):
        # Children of each node, padded to the largest number of children in the level.
        steps = torch.arange(int(level.most_children[0]), device=items.device)
        children = level.first_child[node][..., None] + steps  # (P, R, most children of a node)
        exists = children < level.first_child[node + 1][..., None]
        children = children.clamp_max(len(below.code) - 1)
        # Items below a node are neighbours in the tree's order: their mass is a difference of cumulative probabilities.
        ends = cumulative.gather(1, below.item_range[children + 1].flatten(1))
        mass = (ends - cumulative.gather(1, below.item_range[children].flatten(1))).view_as(children)
        # Without the minimum, a node that the teacher rules out would have no distribution over its children.
        mass = mass.clamp_min(1e-12).masked_fill(~exists, 0.0)
        # Put each child's mass at its code and normalise: p(code | codes before it).
        code_mass = mass.new_zeros(*items.shape, size).scatter_add_(2, below.code[children], mass)
        targets.append((code_mass / code_mass.sum(2, keepdim=True)).float())
        node = torch.searchsorted(below.item_range, items, right=True) - 1
    return targets
