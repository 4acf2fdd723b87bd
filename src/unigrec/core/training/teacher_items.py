"""The teacher's best items after every training sample: what the ranking distillation reads.

The teacher is frozen and the history before a target never changes, so its best items are the same in every epoch. They
are found once, in an order that depends on nothing but the data, so that a resumed run reads the same bits. Where
samples are thinned, a history lacks some items in each epoch: the items found for the whole history are scored again
after what is left of it.

Those of all targets of a long log do not fit into memory (fifty million targets with 128 items: 51 GB). They are then
found batch by batch, again in every epoch: the same items, and the same bits for the same batch.

Shapes: P targets, N items, K best items, B histories of up to n items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.base.errors import UnigrecError
from unigrec.core.models.ensemble import Teacher
from unigrec.core.models.sasrec import States
from unigrec.core.sequences import split_by_total
from unigrec.core.training.samples import Samples, TrainingSamples
from unigrec.core.training.teacher_index import TeacherIndex

# Scores of targets and items that are held at a time; a larger catalogue is read in blocks.
SCORES_AT_A_TIME, ITEMS_AT_A_TIME = {"cpu": 2**21, "cuda": 2**27}, 2**14
SCORES_OF_A_BLOCK = 2**23  # of few targets, a block may have more items than that
GROUP = 64  # neighbouring items of which one maximum is looked at first
KEPT_BYTES = 2**31  # best items that are kept, at most


class Best(NamedTuple):
    """The teacher's distribution over its best items after each of P targets' histories."""

    items: Tensor  # (P, K) int64 catalogue indices
    probabilities: Tensor  # (P, K) float32; rows sum to 1


class TeacherItems:
    """The K best items of a frozen teacher after every training sample, with their probabilities.

    Args:
        samples: every target that will be asked for. count: K, at most N are found.
        device: where the teacher computes, and where `after` returns its tensors.
        search: exact, or by an index (`TeacherIndex`). histories_vary: samples are thinned.

    Raises:
        UnigrecError: a sample's history is longer than what the teacher reads.
    """

    def __init__(
        self,
        teacher: Teacher,
        samples: TrainingSamples,
        count: int,
        device: torch.device,
        search: Literal["exact", "index"] = "exact",
        histories_vary: bool = False,
    ):
        lengths = samples.pieces[:, 1] - samples.pieces[:, 0]
        longest = int(samples[np.argsort(lengths)[-1:]].lengths.max(initial=0))
        if longest > teacher.history:
            raise UnigrecError(
                f"joint.history: the student reads up to {longest} items, and the teacher, which is to rank items "
                f"after them (w_ranking_distillation), no more than {teacher.history}; raise teacher.history"
            )
        self.teacher, self.device, self.histories_vary = teacher, device, histories_vary
        self.index = TeacherIndex(teacher) if search == "index" else None
        self.catalogue_size = samples.sequences.catalogue_size
        self.count = min(count, self.catalogue_size)
        targets = int(samples.pieces[:, 2].sum(dtype=np.int64))
        self.kept = 8 * targets * self.count <= KEPT_BYTES
        if self.kept:
            self._find(samples, targets)

    def _find(self, samples: TrainingSamples, targets: int) -> None:
        """Find the best items at all targets."""
        self.rows = np.full(len(samples.sequences.items), -1, np.int32)  # of a target's position
        self.items = np.empty((targets, self.count), np.int32)
        self.probabilities = np.empty((targets, self.count), np.float32)
        lengths = samples.pieces[:, 1] - samples.pieces[:, 0]
        order = np.argsort(lengths, kind="stable")
        at_a_time = SCORES_AT_A_TIME[self.device.type] // min(self.catalogue_size, ITEMS_AT_A_TIME)
        found = 0
        for pieces in split_by_total(order, samples.pieces[order, 2], at_a_time):
            batch = samples[pieces]
            read = (torch.as_tensor(part, device=self.device) for part in (batch.items, batch.lengths, batch.counts))
            best = self._best_items(*read)
            rows = slice(found, found + len(best.items))
            self.rows[batch.positions] = np.arange(rows.start, rows.stop)
            self.items[rows], self.probabilities[rows] = best.items.cpu(), best.probabilities.cpu()
            found = rows.stop

    def after(self, samples: Samples) -> Best:
        """The best items at each of the samples' targets."""
        if not self.kept:
            return self._best_items(samples.items[samples.history], samples.lengths, samples.counts)
        rows = self.rows[samples.positions]
        items = torch.as_tensor(self.items[rows], device=self.device).long()
        if self.histories_vary:
            read = samples.items[samples.history], samples.lengths, samples.counts
            return Best(items, self.teacher.scores_at(states_before_targets(self.teacher, *read), items).softmax(-1))
        return Best(items, torch.as_tensor(self.probabilities[rows], device=self.device))

    def _best_items(self, items: Tensor, lengths: Tensor, counts: Tensor) -> Best:
        states = states_before_targets(self.teacher, items, lengths, counts)
        if self.index is None:
            found, scores = search_exactly(self.teacher, states, self.catalogue_size, self.count)
        else:
            found, scores = self.index.best(states, self.count)
        return Best(found, scores.softmax(-1))


@torch.no_grad()
def states_before_targets(teacher: Teacher, items: Tensor, lengths: Tensor, counts: Tensor) -> tuple[States, ...]:
    """The teacher's states after each of the last `counts` (B,) items of histories (B, n), padded on the right."""
    steps = torch.arange(items.shape[1], device=items.device)
    places = (steps < lengths[:, None]) & (steps >= (lengths - counts)[:, None])  # a target comes next
    return teacher.states_at(items, lengths, places)


@torch.no_grad()
def search_exactly(
    teacher: Teacher, states: Sequence[States], catalogue_size: int, count: int
) -> tuple[Tensor, Tensor]:
    """Items (P, K) and scores (P, K) of the `count` best items after P targets' histories, the best first."""
    found, scores = torch.empty(2, len(states[0].hidden), 0, device=states[0].hidden.device)
    found = found.long()
    size = max(SCORES_OF_A_BLOCK // max(len(found), 1), ITEMS_AT_A_TIME)
    for start in range(0, catalogue_size, size):
        block = slice(start, min(start + size, catalogue_size))
        values, numbers = largest(teacher.block_scores(states, block), min(count, block.stop - start))
        found, scores = torch.cat([found, numbers + start], dim=1), torch.cat([scores, values], dim=1)
        scores, order = scores.topk(min(count, scores.shape[1]), dim=-1)
        found = found.gather(1, order)
    return found, scores


def largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row (P, n), in falling order, and their columns: what `topk` finds, sooner.

    They lie in those `count` groups of columns that have the largest maxima. To find these groups, 64 times fewer
    numbers are sorted.
    """
    groups = scores.shape[1] // GROUP
    if groups < 4 * count:
        values, found = scores.topk(count, dim=-1)
        return values, found
    whole = groups * GROUP
    maxima = scores[:, :whole].unflatten(1, (groups, GROUP)).amax(-1)
    chosen = maxima.topk(count, sorted=False).indices
    columns = torch.arange(scores.shape[1], device=scores.device)
    inside = (chosen[..., None] * GROUP + columns[:GROUP]).flatten(1)
    places = torch.cat([inside, columns[whole:].expand(len(scores), -1)], dim=1)
    best = scores.gather(1, places).topk(count, dim=-1)
    return best.values, places.gather(1, best.indices)
