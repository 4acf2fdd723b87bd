"""From a global batch of histories and their targets to the tensors of this rank."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.core.distributed import rank, rank_slices
from unigrec.core.models.unified import Asked
from unigrec.core.sequences import Segments, Sequences, bucketed_batches


class Samples(NamedTuple):
    """This rank's rows of a global batch: B histories of n items with P targets, M distinct items in all."""

    items: Tensor  # (M,) catalogue indices of the distinct items
    occurrences: Tensor  # (M,) how often each item occurs in histories and targets
    history: Tensor  # (B, n) rows of `items`
    lengths: Tensor  # (B,) items of each history
    counts: Tensor  # (B,) targets per history: one after each of its last items
    targets: Tensor  # (P,) catalogue indices, row by row
    positions: np.ndarray  # (P,) of the targets in `Sequences.items`
    batch_targets: Tensor  # targets of the whole global batch, in rank order
    batch_sizes: list[int]  # number of targets per rank
    batch_occurrences: int  # occurrences in the whole global batch
    weights: Tensor | None = None  # (P,) of the targets; None: 1 each
    batch_weights: Tensor | None = None  # as `batch_targets`

    def asked(self, codes: Tensor, identifiers: Tensor) -> Asked:
        """codes: (P, R, T) to decode after each history. identifiers: (N, T) of the whole catalogue."""
        return Asked(self.history, self.lengths, self.counts, codes, self.items, identifiers)

    def weighted(self, losses: Tensor) -> Tensor:
        """Losses of the targets (P,), each times its weight."""
        return losses if self.weights is None else losses * self.weights


def thinned(batch: Segments, share: float, seed: int, step: int) -> Segments:
    """The batch with a share of the items of its histories left out, others at every step.

    Nothing is asked after an item that is left out, and later histories lack it; it is still what comes next after the
    item before it. So targets are the true ones, and each row keeps one at least. Seed and step decide, on any rank.

    Rows of one length lose the same number of items at a step: with a number of its own for each, most rows would be
    padded up to the one that lost least.
    """
    if share == 0.0:
        return batch
    generator = np.random.default_rng([seed, step])
    places, rows = np.arange(batch.items.shape[1]), np.arange(len(batch.items))
    exists = places < batch.lengths[:, None]
    asked = exists & (places >= (batch.lengths - batch.counts)[:, None])  # a target comes next
    draws = np.where(exists, generator.random(exists.shape), 2.0)
    draws[rows, batch.lengths - 1 - generator.integers(batch.counts)] = -1.0
    remaining = np.maximum(np.floor((1.0 - share) * batch.lengths + generator.random()), 1)
    kept = exists & (draws.argsort(1).argsort(1) < remaining[:, None])
    lengths = kept.sum(1)
    places = places[: lengths.max(initial=0)]
    items = np.take_along_axis(batch.items, np.argsort(~kept, axis=1, kind="stable"), axis=1)[:, : len(places)]
    items[places >= lengths[:, None]] = 0
    left = kept[asked]
    return Segments(
        items,
        lengths,
        counts=(kept & asked).sum(1),
        targets=batch.targets[left],
        positions=batch.positions[left],
        weights=None if batch.weights is None else batch.weights[left],
    )


def make_samples(batch: Segments, device: torch.device) -> Samples:
    """Take this rank's rows and number their distinct items, so that the tokenizer runs once per distinct item."""
    slices = rank_slices(len(batch.lengths))
    ends = np.r_[0, np.cumsum(batch.counts)]
    rows = slices[rank()]
    history, lengths, counts = batch.items[rows], batch.lengths[rows], batch.counts[rows]
    own = slice(ends[rows.start], ends[rows.stop])
    targets = batch.targets[own]
    mask = np.arange(history.shape[1]) < lengths[:, None]
    items, inverse, occurrences = np.unique(np.r_[history[mask], targets], return_inverse=True, return_counts=True)
    rows_of_items = np.zeros_like(history)
    rows_of_items[mask] = inverse[: mask.sum()]

    def tensor(values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, device=device)

    return Samples(
        items=tensor(items),
        occurrences=tensor(occurrences),
        history=tensor(rows_of_items),
        lengths=tensor(lengths),
        counts=tensor(counts),
        targets=tensor(targets),
        positions=batch.positions[own],
        batch_targets=tensor(batch.targets),
        batch_sizes=[int(ends[part.stop] - ends[part.start]) for part in slices],
        batch_occurrences=int(batch.lengths.sum() + batch.counts.sum()),
        weights=None if batch.weights is None else tensor(batch.weights[own]),
        batch_weights=None if batch.weights is None else tensor(batch.weights),
    )


class TrainingSamples:
    """The samples of a training: every training target once per epoch, with the history before it.

    A causal encoder reads a piece of a user's sequence once for all targets in it. Any other encoder reads one history
    per target.
    """

    def __init__(self, sequences: Sequences, history: int, causal: bool):
        self.sequences = sequences
        self.pieces = sequences.segments(history) if causal else sequences.window_segments(history)

    def batches(self, batch_size: int, seed: int, epoch: int, most: int = 0) -> list[np.ndarray]:
        """Rows of `pieces`, about `batch_size` targets per batch.

        most: about so many targets in all, others in each epoch; 0: every target.
        """
        starts, ends, counts = self.pieces.T
        batches = bucketed_batches(ends - starts, batch_size, seed, epoch=epoch, counts=counts)
        return batches[: -(-most // batch_size)] if most else batches

    def __getitem__(self, rows: np.ndarray) -> Segments:
        return self.sequences.segment_batch(self.pieces[rows])
