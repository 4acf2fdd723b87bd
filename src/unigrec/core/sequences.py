"""Users' sequences of items, their leave-one-out split, and batches of histories, all as integer arrays.

The items may be a mapped file: nothing here copies them as a whole. Arrays with an entry per interaction or training
target hold int32 where that is enough; batches are int64, as torch wants indices.

Shapes: U users, n interactions in all, N items, B samples or rows, T longest history of the batch, P targets, W
training targets, R pieces of sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

SECONDS_PER_DAY = 86400
LONGEST = 1000  # items of a history that anything reads, the last ones
POOL = 64  # batches per pool; samples are sorted by length inside a pool: little padding, yet shuffled batches
AT_ONCE = 2**22  # entries of an array over all interactions that one pass takes at a time


class Histories(NamedTuple):
    """Histories of B samples and the item that follows each."""

    items: np.ndarray  # (B, T) int64, padded with 0 on the right
    lengths: np.ndarray  # (B,) int64
    targets: np.ndarray  # (B,) int64


class Segments(NamedTuple):
    """Histories of B rows, with a target after each of the last `counts` items of a row."""

    items: np.ndarray  # (B, T) int64, padded with 0 on the right
    lengths: np.ndarray  # (B,) int64, items per history
    counts: np.ndarray  # (B,) int64, targets per history
    targets: np.ndarray  # (P,) int64, targets of the first row, then of the next
    positions: np.ndarray  # (P,) int64, of the targets in `Sequences.items`
    weights: np.ndarray | None = None  # (P,) float32, of the targets; None: 1 each


class Sequences(NamedTuple):
    """Items of each user in time order, one user after the other.

    Leave-one-out split: the last item is the test item, the last but one the validation item. Users with fewer than
    three interactions are used for training only. With event types, the validation item lies at `validation`, and what
    is between it and the test item is read for the test alone.
    """

    items: np.ndarray  # (n,) int32 or int64, in memory or mapped
    offsets: np.ndarray  # (U + 1,) int64, user u has items[offsets[u] : offsets[u + 1]]
    catalogue_size: int
    timestamps: np.ndarray | None = None  # (n,) unix seconds of each interaction, where they are known
    weights: np.ndarray | None = None  # (n,) float32, of each interaction as a training target, 1 on average; None: 1
    validation: np.ndarray | None = None  # (U,) int64 position of the validation item, -1 for users without; or None

    @property
    def lengths(self) -> np.ndarray:
        """(U,) interactions of each user."""
        return np.diff(self.offsets)

    @property
    def train_ends(self) -> np.ndarray:
        """(U,) end of each user's training part: the position after the last training interaction."""
        if self.validation is not None:
            return np.where(self.validation >= 0, self.validation, self.offsets[1:])
        return np.where(self.lengths >= 3, self.offsets[1:] - 2, self.offsets[1:])

    def evaluation_users(self) -> np.ndarray:
        """Indices of the users with a validation and a test item."""
        return np.flatnonzero(self.lengths >= 3 if self.validation is None else self.validation >= 0)

    def train_counts(self) -> np.ndarray:
        """(N,) training interactions of each item."""
        counts, training = np.zeros(self.catalogue_size, np.int64), self.is_training()
        for start in range(0, len(training), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            counts += np.bincount(self.items[rows][training[rows]], minlength=self.catalogue_size)
        return counts

    def is_training(self) -> np.ndarray:
        """(n,) true where an interaction belongs to the training part."""
        ends = self.train_ends
        runs = np.stack([ends - self.offsets[:-1], self.offsets[1:] - ends], axis=1)  # (U, 2) training, held out
        return np.repeat(np.tile([True, False], len(ends)), runs.ravel())

    def windows(self) -> np.ndarray:
        """(W,) positions in `items` of all training targets: every training item of a user except the first."""
        return self._ranges(self.offsets[:-1] + 1, self._target_counts())

    def _target_counts(self) -> np.ndarray:
        """(U,) training targets of each user."""
        return np.maximum(self.train_ends - self.offsets[:-1] - 1, 0)

    @property
    def _position_type(self) -> type[np.signedinteger]:
        """The smaller type that holds every position in `items`."""
        return integer_type(len(self.items))

    def _ranges(self, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The positions starts[i] .. starts[i] + counts[i], one range after the other."""
        found = np.repeat((starts - np.cumsum(counts) + counts).astype(self._position_type), counts)
        found += np.arange(len(found), dtype=found.dtype)
        return found

    def days(self) -> np.ndarray | None:
        """(n,) number of the day of each interaction, or None where times do not tell days.

        Some data sets have numbers of order as times, or one time per user: no user then has two days.
        """
        times = self.timestamps
        if times is None:
            return None
        users = self.lengths > 0
        first, last = (times[ends[users]] // SECONDS_PER_DAY for ends in (self.offsets[:-1], self.offsets[1:] - 1))
        if not (last > first).any():
            return None
        days = np.empty(len(times), integer_type(max(-int(first.min()), int(last.max()))))
        for start in range(0, len(times), AT_ONCE):
            days[start : start + AT_ONCE] = times[start : start + AT_ONCE] // SECONDS_PER_DAY
        return days

    def segments(self, history: int) -> np.ndarray:
        """(R, 3) pieces of training sequences in which each training target occurs once: start, end, targets.

        `start` is the position of the first item of a piece, `end` that of its last target; they are at most `history`
        apart. Longer sequences are cut into pieces that overlap by half. From the second piece on, only the later half
        has targets, so that targets keep a long history.
        """
        half, targets = max(history // 2, 1), self._target_counts()
        counts = (targets > 0) - np.minimum(history - targets, 0) // half  # (U,) the first piece, and what it leaves
        number = self._ranges(np.zeros_like(counts), counts)  # (R,) of each piece among those of its user
        first, last = (np.repeat(ends, counts) for ends in (self.offsets[:-1], self.offsets[:-1] + targets))
        done = np.where(number > 0, first + history + (number - 1) * half, first)  # the last target of earlier pieces
        ends = np.minimum(first + history + number * half, last)
        pieces = np.stack([np.maximum(first, ends - history), ends, ends - done], axis=1)
        return pieces.astype(self._position_type)

    def segment_batch(self, pieces: np.ndarray) -> Segments:
        """Histories and targets of the pieces (B, 3), which are rows of `segments` or `window_segments`."""
        starts, ends, counts = pieces.T.astype(np.int64)
        batch = self._gather(starts, ends, targets=False)
        first = np.repeat(ends - counts + 1, counts)
        positions = first + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        weights = None if self.weights is None else self.weights[positions]
        targets = self.items[positions].astype(np.int64)
        return Segments(batch.items, batch.lengths, counts, targets, positions, weights)

    def window_segments(self, history: int) -> np.ndarray:
        """(W, 3) one piece per training target, with the last `history` items before it. Columns as in `segments`."""
        positions = self.windows()
        pieces = np.ones((len(positions), 3), positions.dtype)
        pieces[:, 1] = positions
        positions -= history
        pieces[:, 0] = np.repeat(self.offsets[:-1].astype(positions.dtype), self._target_counts())
        np.maximum(pieces[:, 0], positions, out=pieces[:, 0])
        return pieces

    def held_out(self, users: np.ndarray, split: str, history: int) -> Histories:
        """Histories (at most `history` items) and targets of the users. split: validation or test."""
        back = {"validation": 2, "test": 1}[split]
        positions = self.offsets[users + 1] - back
        if split == "validation" and self.validation is not None:
            positions = self.validation[users]
        return self._gather(np.maximum(self.offsets[users], positions - history), positions)

    def seen(self, users: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
        """All items before the held-out one, without a limit: (B, T) padded with 0, and (B,) lengths."""
        longest = int(self.lengths.max())
        batch = self.held_out(users, split, longest)
        return batch.items, batch.lengths

    def teacher_batch(self, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The items of some `segments` (B, 3), the last target among them: (B, T), padded with 0, and (B,) lengths."""
        batch = self._gather(pieces[:, 0].astype(np.int64), pieces[:, 1] + np.int64(1), targets=False)
        return batch.items, batch.lengths

    def teacher_weights(self, pieces: np.ndarray) -> np.ndarray | None:
        """(B, T) float32 weights of the items of `teacher_batch` as targets, padded with 0; None: 1 each."""
        if self.weights is None:
            return None
        starts, ends = pieces[:, 0].astype(np.int64), pieces[:, 1] + np.int64(1)
        steps = np.arange(int((ends - starts).max(initial=0)))
        index = np.minimum(starts[:, None] + steps, len(self.items) - 1)
        return np.where(steps < (ends - starts)[:, None], self.weights[index], np.float32(0.0))

    def _gather(self, starts: np.ndarray, ends: np.ndarray, targets: bool = True) -> Histories:
        """Histories items[start : end], and the items at `ends` as targets."""
        lengths = ends - starts
        steps = np.arange(int(lengths.max(initial=0)))
        index = np.minimum(starts[:, None] + steps, len(self.items) - 1)
        items = np.where(steps < lengths[:, None], self.items[index], np.int64(0))
        return Histories(items, lengths, self.items[ends].astype(np.int64) if targets else np.empty(0, np.int64))


def bucketed_batches(
    lengths: np.ndarray, batch_size: int, seed: int, epoch: int, counts: np.ndarray | None = None
) -> list[np.ndarray]:
    """Indices 0..len(lengths)-1 in batches of similar length, in an order drawn from (seed, epoch).

    Rows are shuffled, cut into pools of `POOL` batches, sorted by length and count inside a pool and cut into batches.
    Then the batches are shuffled.

    Args:
        lengths: (R,) length of each row. batch_size: samples per batch.
        counts: (R,) samples per row; None for one each. A batch ends with the row that fills it.
    """
    generator = np.random.default_rng([seed, epoch])
    order = np.arange(len(lengths), dtype=integer_type(len(lengths)))
    generator.shuffle(order)
    counts = np.ones(len(lengths), np.int8) if counts is None else counts
    batches: list[np.ndarray] = []
    for pool in split_by_total(order, counts[order], POOL * batch_size):
        by_length = pool[np.lexsort((counts[pool], lengths[pool]))]
        batches += split_by_total(by_length, counts[by_length], batch_size)
    return [batches[index] for index in generator.permutation(len(batches))]


def split_by_total(rows: np.ndarray, counts: np.ndarray, size: int) -> list[np.ndarray]:
    """Consecutive rows (n,) in pieces whose counts (n,) add up to about `size`."""
    if not len(rows):
        return []
    ends, total, piece = [], 0, (int(counts[0]) - 1) // size
    for start in range(0, len(counts), AT_ONCE):
        totals = total + np.cumsum(counts[start : start + AT_ONCE], dtype=np.int64)
        pieces = (totals - 1) // size
        ends.append(start + np.flatnonzero(np.diff(pieces, prepend=piece)))
        total, piece = int(totals[-1]), int(pieces[-1])
    return np.split(rows, np.concatenate(ends))


def integer_type(largest: int) -> type[np.signedinteger]:
    """The type of an array with an entry per interaction: int32 if it holds `largest`, else int64."""
    return np.int32 if largest <= np.iinfo(np.int32).max else np.int64


def in_chunks(indices: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Consecutive pieces of at most `size` indices."""
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def chunks_by_length(lengths: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Row numbers sorted by length, at most `size` at a time: batches with little padding."""
    return in_chunks(np.argsort(lengths, kind="stable"), size)


def pad_rows(rows: Sequence[Sequence[int]], fill: int) -> tuple[np.ndarray, np.ndarray]:
    """B lists of item indices -> (B, T) padded on the right with `fill`, and (B,) lengths."""
    lengths = np.array([len(row) for row in rows], np.int64)
    padded = np.full((len(rows), int(lengths.max(initial=0))), fill, np.int64)
    for row, items in zip(padded, rows, strict=True):
        row[: len(items)] = items
    return padded, lengths


def last_items(items: np.ndarray, lengths: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The last `count` items of each row: (B, T) padded on the right and (B,) lengths -> the same with T <= count."""
    short = np.minimum(lengths, count)
    steps = np.arange(min(items.shape[1], count))
    index = np.minimum((lengths - short)[:, None] + steps, max(items.shape[1] - 1, 0))
    return np.take_along_axis(items, index, axis=1), short


def sample(values: np.ndarray, count: int, seed: int) -> np.ndarray:
    """At most `count` of the rising values, in their order; the same ones for the same seed."""
    if len(values) <= count:
        return values
    return np.sort(np.random.default_rng(seed).choice(values, count, replace=False))
