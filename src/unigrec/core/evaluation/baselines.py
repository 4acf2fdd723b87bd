"""Where the models that rank the whole catalogue rank each user's test item.

    popularity    by training interactions
    cooccurrence  by the summed cosine with the items of the history
    last_item     the history again, the last item first, then what is popular
    own_items     the history again, the most frequent item first, then what is popular
    neighbours    by `NeighbourRanking`
    teacher       by the dense part

The first four have one order of most items, the same for all users: ranks are counted among the few other items. The
last two have a score for every item.

Shapes: U users, B users of a batch, N items, T items that were seen, H items of a history.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from unigrec.core.evaluation.metrics import is_before, rank_among_unseen, rank_in_scores, seen_before
from unigrec.core.evaluation.protocol import Protocol
from unigrec.core.models.ensemble import Teacher
from unigrec.core.retrieval.cooccurrence import Cooccurrence, popularity_scores
from unigrec.core.retrieval.neighbour_ranking import NeighbourRanking
from unigrec.core.retrieval.neighbours import Neighbours
from unigrec.core.retrieval.own_items import OwnItems
from unigrec.core.retrieval.retriever import CPU
from unigrec.core.retrieval.rows import seen_further_left
from unigrec.core.sequences import LONGEST, Histories, Sequences, in_chunks

Ranks = dict[tuple[str, str], np.ndarray]  # (model, protocol) -> (U,) rank of the test item, 0 if not found

SCORES_AT_ONCE = 2**25  # numbers of one model's scores for some users: 128 MB


class Ranked(NamedTuple):
    """Where a model ranks targets."""

    ranks: Tensor  # (B,) among all items
    before: Tensor  # (B, T) whether each item that was seen comes before the target


class Baselines:
    """Popularity, co-occurrence, the items of the history again, and what else is given.

    Args:
        history: items of history that co-occurrence reads; the teacher has its own number.
        neighbours: those of `NeighbourRanking`.
    """

    def __init__(
        self,
        sequences: Sequences,
        history: int,
        teacher: Teacher | None = None,
        neighbours: Neighbours | None = None,
        device: torch.device = CPU,
    ):
        self.sequences, self.history, self.device = sequences, history, device
        self.teacher = None if teacher is None else teacher.to(device).eval()
        self.cooccurrence = Cooccurrence(sequences)
        self.neighbours = None if neighbours is None else NeighbourRanking(neighbours, self.cooccurrence)
        popular = popularity_scores(sequences).argsort(descending=True, stable=True)
        self.popularity = torch.empty_like(popular)  # (N,) place of each item among all, from 0
        self.popularity[popular] = torch.arange(len(popular))

    @torch.no_grad()
    def ranks(self, users: np.ndarray) -> Ranks:
        """Rank of each user's test item, by model and protocol; of a large catalogue for a few users at a time."""
        compared = int(self.sequences.lengths.max()) * self.history  # items of a user with those of the history
        size = max(SCORES_AT_ONCE // max(self.sequences.catalogue_size, compared), 1)
        parts = [self._ranks(chunk) for chunk in in_chunks(users, size)] or [self._ranks(users)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _ranks(self, users: np.ndarray) -> Ranks:
        short = self.sequences.held_out(users, "test", self.history)
        targets, seen = torch.as_tensor(short.targets), seen_before(self.sequences, users, "test")
        found: Ranks = {}
        for model, (ranks, before) in self._ranked(users, short, targets, seen).items():
            found[model, Protocol.UNMASKED] = ranks.numpy()
            found[model, Protocol.MASKED] = rank_among_unseen(ranks, before, targets, seen).numpy()
        return found

    def _ranked(self, users: np.ndarray, short: Histories, targets: Tensor, seen: Tensor) -> dict[str, Ranked]:
        ranked = {
            "popularity": ranked_in_order(self.popularity, targets, seen),
            "cooccurrence": ranked_in_few_scores(self.cooccurrence.scores(short), targets, seen),
            "last_item": ranked_again(short, self.popularity, targets, seen),
        }
        whole = self.sequences.held_out(users, "test", LONGEST)
        ranked["own_items"] = ranked_by_count(whole, self.popularity, targets, seen)
        if self.neighbours is not None:
            ranked["neighbours"] = ranked_in_scores(self.neighbours.scores(short), targets, seen)
        if self.teacher is not None:
            long = self.sequences.held_out(users, "test", self.teacher.history)
            history, lengths = (torch.as_tensor(part, device=self.device) for part in (long.items, long.lengths))
            scores = self.teacher.scores(history, lengths)
            ranked["teacher"] = ranked_in_scores(scores, targets.to(self.device), seen.to(self.device))
        return ranked


def ranked_in_scores(scores: Tensor, targets: Tensor, seen: Tensor) -> Ranked:
    """By scores (B, N)."""
    own = scores.gather(1, targets[:, None])
    before = is_before(scores.gather(1, seen.clamp_min(0)), own, seen < targets[:, None])
    return Ranked(rank_in_scores(scores, targets).cpu(), before.cpu())


def ranked_in_order(places: Tensor, targets: Tensor, seen: Tensor) -> Ranked:
    """By the place (N,) of each item, the same for all users."""
    own = places[targets]
    return Ranked(own + 1, places[seen.clamp_min(0)] < own[:, None])


def ranked_in_few_scores(scores: csr_array, targets: Tensor, seen: Tensor) -> Ranked:
    """By scores (B, N) above 0; the items without one come after them, the lower item index first."""
    scores.sort_indices()
    row, width = np.repeat(np.arange(len(targets)), np.diff(scores.indptr)), scores.shape[1]
    keys, values = np.append(row * width + scores.indices, -1), np.append(scores.data, np.float32(0.0))

    def scores_of(items: Tensor) -> Tensor:  # (B, T)
        asked = np.arange(len(items))[:, None] * width + items.numpy()
        place = np.searchsorted(keys[:-1], asked)
        return torch.as_tensor(np.where(keys[place] == asked, values[place], 0.0))

    own = scores_of(targets[:, None])
    target = targets.numpy()[row]
    lower, score = scores.indices < target, own[:, 0].numpy()[row]
    before = (scores.data > score) | ((scores.data == score) & lower)
    counts, lower_counts = (torch.as_tensor(np.bincount(row[some], minlength=len(targets))) for some in (before, lower))
    without = torch.where(own[:, 0] > 0.0, 0, targets - lower_counts)  # lower items without a score
    return Ranked(counts + without + 1, is_before(scores_of(seen), own, seen < targets[:, None]))


def ranked_again(histories: Histories, places: Tensor, targets: Tensor, seen: Tensor) -> Ranked:
    """The items of the history, the last one first; then the others by their places (N,)."""
    steps = torch.arange(1, histories.items.shape[1] + 1, dtype=torch.int32)
    exists = steps <= torch.as_tensor(histories.lengths)[:, None]
    read = torch.as_tensor(histories.items).masked_fill(~exists, -1)  # (B, H)

    def recency(items: Tensor) -> Tensor:  # (B, T) the step of the history at which each item came last, 0 for none
        return torch.where(items[:, :, None] == read[:, None], steps, 0).amax(2)

    own, place = recency(targets[:, None]), places[targets][:, None]
    once = exists & (recency(read) == steps)  # each item of the history, where it came last
    later, behind = once & (steps > own), once & (places[read.clamp_min(0)] > place)
    counts = torch.where(own[:, 0] > 0, later.sum(1), place[:, 0] + behind.sum(1))
    recent = recency(seen)
    before = (recent > own) | ((recent == own) & (places[seen.clamp_min(0)] < place))
    return Ranked(counts + 1, before)


def ranked_by_count(histories: Histories, places: Tensor, targets: Tensor, seen: Tensor) -> Ranked:
    """The items of the history, the most frequent first; of equal counts, and of the others, by their places (N,)."""
    own_items = OwnItems(torch.as_tensor(histories.items), torch.as_tensor(histories.lengths))
    own, place = own_items.counts(targets[:, None]), places[targets][:, None]

    def comes_before(items: Tensor) -> Tensor:  # (B, X)
        counts = own_items.counts(items)
        return (counts > own) | ((counts == own) & (places[items.clamp_min(0)] < place))

    once = (own_items.items >= 0) & ~seen_further_left(own_items.items)  # each item of the history
    before = once & comes_before(own_items.items)
    # Of a target that the history lacks: all of the history, and the others that are more popular.
    popular = once & (places[own_items.items.clamp_min(0)] < place)
    others = torch.where(own[:, 0] > 0, 0, place[:, 0] - popular.sum(1))
    return Ranked(before.sum(1) + others + 1, comes_before(seen))
