"""Sequences, the leave-one-out split, and batches of both, as integer arrays.

Shapes: U users, n interactions in all, B samples, T longest history of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

POOL = 64  # batches whose samples are sorted by length together: little padding, yet shuffled batches


class Histories(NamedTuple):
    """Histories of B samples and what follows each."""

    items: np.ndarray  # (B, T) int64, padded with 0 on the right
    lengths: np.ndarray  # (B,) int64
    targets: np.ndarray  # (B,) int64


class Sequences(NamedTuple):
    """Users' items in time order, one after the other. Leave-one-out: last item test, last but one validation.

    Users with fewer than three interactions are for training only.
    """

    items: np.ndarray  # (n,) int64
    offsets: np.ndarray  # (U + 1,) int64
    catalogue_size: int

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def train_ends(self) -> np.ndarray:
        """(U,) one past each user's last training interaction."""
        return np.where(self.lengths >= 3, self.offsets[1:] - 2, self.offsets[1:])

    def evaluation_users(self) -> np.ndarray:
        """Users that have a validation and a test item."""
        return np.flatnonzero(self.lengths >= 3)

    def train_counts(self) -> np.ndarray:
        """(N,) training interactions of each item."""
        return np.bincount(self.items[self.is_training()], minlength=self.catalogue_size)

    def is_training(self) -> np.ndarray:
        """(n,) whether an interaction belongs to the training part."""
        return np.arange(len(self.items)) < np.repeat(self.train_ends, self.lengths)

    def windows(self) -> np.ndarray:
        """(W,) positions in `items` of every training target: each prefix of a training sequence predicts the next."""
        positions = np.flatnonzero(self.is_training())
        starts = np.repeat(self.offsets[:-1], self.lengths)[positions]
        return positions[positions > starts]

    def window_batch(self, positions: np.ndarray, history: int) -> Histories:
        """Histories of at most `history` items before each position, and the item at it."""
        users = np.searchsorted(self.offsets, positions, side="right") - 1
        return self._gather(np.maximum(self.offsets[users], positions - history), positions)

    def held_out(self, users: np.ndarray, split: str, history: int) -> Histories:
        """Histories and targets of the given users for `split`, validation or test."""
        back = {"validation": 2, "test": 1}[split]
        positions = self.offsets[users + 1] - back
        return self._gather(np.maximum(self.offsets[users], positions - history), positions)

    def seen(self, users: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
        """All items before the held-out one, uncut: (B, T) padded with 0 and (B,) lengths."""
        longest = int(self.lengths.max())
        batch = self.held_out(users, split, longest)
        return batch.items, batch.lengths

    def training_batch(self, users: np.ndarray, history: int) -> tuple[np.ndarray, np.ndarray]:
        """The last `history + 1` training items of each user: (B, T) padded with 0 and (B,) lengths."""
        ends = self.train_ends[users]
        batch = self._gather(np.maximum(self.offsets[users], ends - history - 1), ends, targets=False)
        return batch.items, batch.lengths

    def _gather(self, starts: np.ndarray, ends: np.ndarray, targets: bool = True) -> Histories:
        lengths = ends - starts
        steps = np.arange(int(lengths.max(initial=0)))
        index = np.minimum(starts[:, None] + steps, len(self.items) - 1)
        items = np.where(steps < lengths[:, None], self.items[index], 0)
        return Histories(items, lengths, self.items[ends] if targets else np.empty(0, np.int64))


def bucketed_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Indices 0..len(lengths)-1 in batches of near-equal length, shuffled anew by (seed, epoch).

    Samples are shuffled, cut into pools of `POOL` batches, sorted by length inside a pool, and the batches shuffled.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
    return [batches[index] for index in generator.permutation(len(batches))]


def in_chunks(indices: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Consecutive pieces of at most `size`."""
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
