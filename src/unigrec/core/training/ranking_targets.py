"""The teacher's ranking as targets for the decoder: which code comes next if the teacher chooses the item.

An addition to the published method. There, distillation uses the teacher's embeddings; here, it uses the items that the
teacher would recommend. The cross entropy of two distributions over items is, written code by code,

    - sum_i p(i) log q(i) = - sum_l E_{i ~ p} [ sum_c p(c | codes of i before l) log q(c | codes of i before l) ]

So the decoder is run on items that are sampled from the teacher. Its target at each position is the teacher's
distribution over the next code. A set decoder scores all items at once, so its target is the teacher's distribution
over items as it is. Shapes: P training samples, R sampled items, N items, T decoder positions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.core.distributed import rank
from unigrec.core.losses import ranking_distillation_loss, recommendation_loss
from unigrec.core.models.ensemble import Teacher
from unigrec.core.retrieval.prefix_tree import PrefixTree
from unigrec.core.training.samples import Samples


class Ranking(NamedTuple):
    """The teacher's ranking after each training sample."""

    codes: Tensor  # (P, R, T) identifiers of items that are sampled from the teacher's distribution; none for a set
    targets: list[Tensor]  # (P, R, size) per position: the teacher's distribution over the next code; rows sum to 1.
    # For a set decoder: (P, 1, N), the distribution over items.


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
        probabilities = probabilities_after(self.in_tree_order, self.tree.rank[history], lengths, counts)
        sampled, cumulative = sample_items(probabilities, uniform)
        targets = code_distributions(self.tree, cumulative, sampled, sizes=self.sizes)
        return Ranking(self.codes[self.tree.order[sampled]], targets)


class TeacherDistribution:
    """A frozen teacher as targets for a set decoder, which scores the whole catalogue."""

    def __init__(self, teacher: Teacher):
        self.teacher = teacher.eval()

    def use_identifiers(self, codes: Tensor) -> None:
        """The same for all identifiers."""

    @torch.no_grad()
    def rank_samples(self, samples: Samples, step: int) -> Ranking:
        """The distribution over items after this rank's training samples. It is the same at any step."""
        history = samples.items[samples.history]
        probabilities = probabilities_after(self.teacher, history, samples.lengths, samples.counts)
        return Ranking(samples.targets.new_empty(len(probabilities), 0, 1), [probabilities[:, None]])


def probabilities_after(teacher: Teacher, history: Tensor, lengths: Tensor, counts: Tensor) -> Tensor:
    """(P, N) the teacher's distribution after each of the last `counts` (B,) items of histories (B, n)."""
    steps = torch.arange(history.shape[1], device=history.device)
    has_target = (steps < lengths[:, None]) & (steps >= (lengths - counts)[:, None])
    return teacher.scores_at(history, lengths, has_target).softmax(-1)


def codes_to_decode(codes: Tensor, ranking: Ranking | None) -> Tensor:
    """Inputs of the decoder: the targets' codes (P, T), then those of the R sampled items -> (P, 1 + R, T)."""
    targets = codes[:, None]
    return targets if ranking is None else torch.cat([targets, ranking.codes], dim=1)


def decoder_losses(logits: list[Tensor], codes: Tensor, ranking: Ranking | None) -> tuple[Tensor, Tensor | None]:
    """(P,) recommendation loss and (P,) ranking distillation loss of each sample. The latter is None without a ranking.

    logits: (P, 1 + R, size) per position, for `codes_to_decode` of these codes and this ranking. A set decoder has one
        (P, 1, N) for both losses.
    """
    recommendation = recommendation_loss([scores[:, 0] for scores in logits], codes)
    if ranking is None:
        return recommendation, None
    distilled = [scores[:, -target.shape[1] :] for scores, target in zip(logits, ranking.targets, strict=True)]
    return recommendation, ranking_distillation_loss(distilled, ranking.targets).mean(1)


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
