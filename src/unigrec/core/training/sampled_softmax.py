"""The teacher's cross entropy, estimated from a few items: for catalogues whose whole softmax costs too much.

At each place the denominator of the softmax is a sum over N items. It is estimated without bias from the items that the
step scores:

- Items of the place's own user, the target among them, are in the step for certain. They count once, uncorrected.
- Any other item counts as often as it was drawn, divided by how often that was to be expected (log-Q correction, Bengio
  and Senecal 2008). Draws are the items of the batch's other users, and as many uniform draws as params ask for (mixed
  negative sampling, WWW 2020). Equal draws share a column, and none can hit the place's own target.

An item of the user as a negative of its own place would be corrected as if it had been drawn by chance, by up to
hundreds of times: so it is exact instead (compare arXiv 2507.09331 on the target's correction).

The expectation takes rows of a batch as drawn independently. Batches of similar length, and pieces of one user,
deviate from that a little.

Shapes: B users of the whole batch, T places, P places with a next item, N items, C items that a step scores, E width.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.core.losses import Bonus, sampled_cross_entropy
from unigrec.core.sequences import Sequences, in_chunks

ROWS_AT_ONCE = 2**16
NEGATIVES = 1  # the stream of random numbers of a step's draws


class StepItems(NamedTuple):
    """The items that a step scores: those of the whole batch and the uniform draws. The same on every rank."""

    items: Tensor  # (C,) int64 catalogue indices, rising
    log_weights: Tensor  # (C,) log of the number of draws over its expectation
    uniform: Tensor  # (C,) share of the uniform draws

    def columns(self, items: Tensor) -> Tensor:
        """Places of items in `items`. An item that is not there, as padding is not, has the place of another."""
        return torch.searchsorted(self.items, items).clamp_(max=len(self.items) - 1)


class Sampler:
    """Draws the candidates of each step, as a function of (seed, step).

    Args:
        pieces: (R, 3) the rows of the training, as `Sequences.segments` has them.
        negatives: number of uniform draws per step.
    """

    def __init__(self, sequences: Sequences, pieces: np.ndarray, negatives: int, seed: int):
        self.items, self.negatives, self.seed = sequences.catalogue_size, negatives, seed
        counts = np.zeros(self.items, np.int64)
        for chunk in in_chunks(pieces, ROWS_AT_ONCE):
            items, lengths = sequences.teacher_batch(chunk)
            counts += np.bincount(items[np.arange(items.shape[1]) < lengths[:, None]], minlength=self.items)
        self.shares = counts / max(counts.sum(), 1)  # (N,) of each item among the items of a batch

    def draw(self, items: np.ndarray, lengths: np.ndarray, step: int, device: torch.device) -> StepItems:
        """The items of a step on a whole batch: items (B, T) padded on the right, lengths (B,)."""
        drawn = np.random.default_rng([self.seed, step, NEGATIVES]).integers(0, self.items, self.negatives)
        batch = items[np.arange(items.shape[1]) < lengths[:, None]]
        found, place = np.unique(np.r_[batch, drawn], return_inverse=True)
        uniform = np.bincount(place[len(batch) :], minlength=len(found))
        times = np.bincount(place[: len(batch)], minlength=len(found)) + uniform
        others = len(batch) * (1.0 - 1.0 / len(lengths))  # items of the other users, whose lengths are similar
        expected = others * self.shares[found] + self.negatives / self.items
        log_weights = torch.as_tensor(np.log(times / expected), dtype=torch.float32, device=device)
        shares = torch.as_tensor(uniform / self.negatives, dtype=torch.float32, device=device)
        return StepItems(torch.as_tensor(found, device=device), log_weights, shares)


class SampledLoss(NamedTuple):
    """What the loss of P places needs beside their states and the candidates' embeddings."""

    candidates: StepItems
    catalogue_size: int
    targets: Tensor  # (P,) columns of the candidates
    own: Bonus  # (P, T) columns of the user's items, and what undoes their correction

    def at(self, rows: Tensor) -> SampledLoss:
        """The same for some of the places (P,) bool."""
        return self._replace(targets=self.targets[rows], own=Bonus(self.own.items[rows], self.own.values[rows]))

    def loss(self, hidden: Tensor, table: Tensor, bonus: Bonus | None, smoothing: float) -> Tensor:
        """Mean cross entropy of the places, a scalar.

        Args:
            hidden: (P, E) states. table: (C, E) embeddings of the candidates.
            bonus: of the repeat bias, with columns of the candidates.
        """
        bonuses = self.own if bonus is None else _joined(self.own, bonus)
        loss = sampled_cross_entropy(hidden, table, self.targets, self.candidates.log_weights, bonuses)
        if not smoothing:
            return loss
        # Smoothing moves a share of the target to the mean logit of the catalogue, which uniform draws estimate.
        of_target, of_mean = table[self.targets], self.candidates.uniform @ table
        gain = (hidden * (of_target - of_mean)).sum(1)
        if bonus is not None:
            shares = (bonus.items == self.targets[:, None]).float() - 1.0 / self.catalogue_size
            gain = gain + (shares * bonus.values).sum(1)
        return loss + smoothing * gain.mean()


def sampled_loss(
    candidates: StepItems, catalogue_size: int, items: Tensor, lengths: Tensor, mask: Tensor
) -> SampledLoss:
    """For the places (B, T) that the mask names: columns (B, T + 1) of the items, padded on the right."""
    steps = torch.arange(items.shape[1], device=items.device)
    repeated = ((items[:, :, None] == items[:, None, :]) & (steps < steps[:, None])).any(-1)
    counts = (steps < lengths[:, None]) & ~repeated  # each item of a user once
    undone = torch.where(counts, -candidates.log_weights[items], 0.0)
    places = mask.sum(1)
    own = Bonus(*(part.repeat_interleave(places, dim=0) for part in (items, undone)))
    return SampledLoss(candidates, catalogue_size, items[:, 1:][mask], own)


def _joined(one: Bonus, other: Bonus) -> Bonus:
    return Bonus(torch.cat([one.items, other.items], dim=1), torch.cat([one.values, other.values], dim=1))
