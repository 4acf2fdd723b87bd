"""The teacher's ranking as targets for the decoder: which code comes next, if the teacher chose the item.

An addition to the published method, whose distillation hands over the teacher's embeddings: this hands over what the
teacher would recommend. The cross entropy of two distributions over items is, written code by code,

    - sum_i p(i) log q(i) = - sum_l E_{i ~ p} [ sum_c p(c | codes of i before l) log q(c | codes of i before l) ]

so the decoder follows items that are drawn from the teacher, and has at each position the teacher's distribution over
the next code. Shapes: P samples, R drawn items, N items, T decoder positions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unigrec.core.distributed import rank
from unigrec.core.losses import ranking_distillation_loss, recommendation_loss
from unigrec.core.models.sasrec import SASRec
from unigrec.core.retrieval.prefix_tree import PrefixTree
from unigrec.core.training.samples import Samples


class Ranking(NamedTuple):
    """What the teacher expects of each sample."""

    codes: Tensor  # (P, R, T) identifiers of items drawn from the teacher's distribution
    targets: list[Tensor]  # a (P, R, size) tensor a position: its distribution over the next code; rows sum to 1


class TeacherRanking:
    """A frozen teacher that ranks items by their identifiers of today.

    Args:
        sizes: codes to choose from at each position. draws: R, items to draw for each sample.
        seed: of what is drawn, with the step: the same for any number of ranks.
    """

    def __init__(self, teacher: SASRec, sizes: list[int], draws: int, seed: int):
        self.teacher, self.sizes, self.draws, self.seed = teacher.eval(), sizes, draws, seed
        self.codes: Tensor | None = None

    def read(self, codes: Tensor) -> None:
        """Take over the identifiers (N, T), distinct, if they are not those of the call before."""
        if self.codes is not codes:
            self.codes = codes
            self.tree = PrefixTree(codes.cpu().numpy(), codes.device)
            self.table = self.teacher.item_table().detach()[self.tree.order]  # (N, E)

    def expect(self, samples: Samples, step: int) -> Ranking:
        """What comes after the histories of this rank's samples."""
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([self.seed, step]).generate_state(1)[0]))
        points = torch.rand(len(samples.batch_targets), self.draws, generator=generator, dtype=torch.float64)
        own = points.split(samples.batch_sizes)[rank()].to(samples.items.device)
        return self.after(samples.items[samples.history], samples.lengths, samples.counts, own)

    @torch.no_grad()
    def after(self, history: Tensor, lengths: Tensor, counts: Tensor, points: Tensor) -> Ranking:
        """What comes after each of the last `counts` (B,) items of histories.

        history: (B, n) catalogue indices, padded on the right by lengths (B,). points: (P, R) as `draw` takes them.
        """
        assert self.codes is not None, "read the identifiers first"
        steps = torch.arange(history.shape[1], device=history.device)
        wanted = (steps < lengths[:, None]) & (steps >= (lengths - counts)[:, None])
        probabilities = (self.teacher(history, lengths)[wanted] @ self.table.T).softmax(-1)  # (P, N), as the tree sorts
        place, cumulative = draw(probabilities, points)
        return Ranking(self.codes[self.tree.order[place]], code_distributions(self.tree, cumulative, place, self.sizes))


def to_decode(codes: Tensor, ranking: Ranking | None) -> Tensor:
    """(P, R, T) what the decoder follows: the targets' own codes (P, T), and behind them those that were drawn."""
    own = codes[:, None]
    return own if ranking is None else torch.cat([own, ranking.codes], dim=1)


def decoder_losses(logits: list[Tensor], codes: Tensor, ranking: Ranking | None) -> tuple[Tensor, Tensor | None]:
    """(P,) recommendation loss and, where there is a ranking, (P,) ranking distillation loss of each sample.

    logits: a (P, R, size) tensor a position, after `to_decode` of these codes and this ranking.
    """
    own = recommendation_loss([of[:, 0] for of in logits], codes)
    if ranking is None:
        return own, None
    return own, ranking_distillation_loss([of[:, 1:] for of in logits], ranking.targets).mean(1)


def draw(probabilities: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Items of each row by uniform random numbers in [0, 1), each item as often as it is probable.

    probabilities (P, N), points float64 (P, R) -> (P, R) columns, and float64 (P, N + 1) cumulative probabilities.
    """
    cumulative = F.pad(probabilities.double().cumsum(1), (1, 0))
    place = torch.searchsorted(cumulative, points * cumulative[:, -1:], right=True) - 1
    return place.clamp(0, probabilities.shape[1] - 1), cumulative


def code_distributions(tree: PrefixTree, cumulative: Tensor, place: Tensor, sizes: list[int]) -> list[Tensor]:
    """The distribution over each position's codes that a distribution over items implies, given the codes before it.

    Args:
        cumulative: float64 (P, N + 1), cumulative probabilities of the items in the tree's order. place: (P, R) items.

    Returns:
        A (P, R, size) tensor a position; rows sum to 1.
    """
    node, targets = torch.zeros_like(place), []
    for level, below, size in zip(tree.levels, tree.levels[1:], sizes, strict=False):
        steps = torch.arange(int(level.most_children[0]), device=place.device)
        children = level.first_child[node][..., None] + steps  # (P, R, most children of a node)
        exists = children < level.first_child[node + 1][..., None]
        children = children.clamp_max(len(below.code) - 1)
        ends = cumulative.gather(1, below.item_range[children + 1].flatten(1))
        mass = (ends - cumulative.gather(1, below.item_range[children].flatten(1))).view_as(children)
        mass = mass.clamp_min(1e-12).masked_fill(~exists, 0.0)
        by_code = mass.new_zeros(*place.shape, size).scatter_add_(2, below.code[children], mass)
        targets.append((by_code / by_code.sum(2, keepdim=True)).float())
        node = torch.searchsorted(below.item_range, place, right=True) - 1
    return targets
