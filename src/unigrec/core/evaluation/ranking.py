"""Where each model ranks each user's test item.

The models are popularity, cooccurrence, last_item (the history again, then what is popular), neighbours, teacher (the
dense part), student (the generative part) and fused (all parts). The first five score the whole catalogue; student and
fused rank the candidates that a search finds.

Shapes: U users, B users of a batch, N items.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from unigrec.core.evaluation.metrics import rank_in_list, rank_in_scores, seen_before
from unigrec.core.evaluation.protocol import Protocol
from unigrec.core.models.ensemble import Teacher
from unigrec.core.retrieval.beam import BeamResult
from unigrec.core.retrieval.cooccurrence import Cooccurrence, popularity_scores
from unigrec.core.retrieval.fused import FusedRetriever
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.retrieval.neighbour_ranking import NeighbourRanking
from unigrec.core.retrieval.neighbours import Neighbours
from unigrec.core.retrieval.prefix_tree import PrefixTree, Restriction
from unigrec.core.retrieval.retriever import CPU, Retriever
from unigrec.core.sequences import Histories, Sequences, chunks_by_length, in_chunks

Ranks = dict[tuple[str, str], np.ndarray]  # (model, protocol) -> (U,) rank of the test item, 0 if not found

SCORES_AT_ONCE = 2**25  # numbers of one model's scores for some users: 128 MB

Lists = Callable[[Histories, list[Restriction | None]], list[dict[str, BeamResult]]]


def rank_test_items(
    sequences: Sequences, users: np.ndarray, retriever: FusedRetriever, baselines: Baselines, batch_size: int
) -> Ranks:
    """Ranks of all models for the same users."""
    ranks: Ranks = {}
    for chunk in chunks_by_length(sequences.lengths[users], batch_size):
        found = baselines.ranks(users[chunk]) | fused_ranks(retriever, sequences, users[chunk])
        for name, values in found.items():
            ranks.setdefault(name, np.zeros(len(users), np.int64))[chunk] = values
    return ranks


class Baselines:
    """Models that score the whole catalogue: popularity, co-occurrence, the last item, and what else is given.

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
        self.popularity, self.cooccurrence = popularity_scores(sequences), Cooccurrence(sequences)
        self.neighbours = None if neighbours is None else NeighbourRanking(neighbours, self.cooccurrence)

    @torch.no_grad()
    def ranks(self, users: np.ndarray) -> Ranks:
        """Rank of each user's test item, by model and protocol; of a large catalogue for a few users at a time."""
        size = max(SCORES_AT_ONCE // self.sequences.catalogue_size, 1)
        parts = [self._ranks(chunk) for chunk in in_chunks(users, size)] or [self._ranks(users)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _ranks(self, users: np.ndarray) -> Ranks:
        short = self.sequences.held_out(users, "test", self.history)
        targets = torch.as_tensor(short.targets, device=self.device)
        seen = seen_before(self.sequences, users, "test").to(self.device)
        hidden = {Protocol.UNMASKED: None, Protocol.MASKED: seen}
        return {
            (model, protocol): rank_in_scores(values.to(self.device), targets, unwanted).cpu().numpy()
            for model, values in self._scores(users, short).items()
            for protocol, unwanted in hidden.items()
        }

    def _scores(self, users: np.ndarray, short: Histories) -> dict[str, Tensor]:
        popularity = self.popularity.expand(len(users), -1)
        scores = {
            "popularity": popularity,
            "cooccurrence": self.cooccurrence.scores(short),
            "last_item": last_items_again(short, popularity),
        }
        if self.neighbours is not None:
            scores["neighbours"] = self.neighbours.scores(short)
        if self.teacher is not None:
            long = self.sequences.held_out(users, "test", self.teacher.history)
            history, lengths = (torch.as_tensor(part, device=self.device) for part in (long.items, long.lengths))
            scores["teacher"] = self.teacher.scores(history, lengths)
        return scores


def last_items_again(histories: Histories, popularity: Tensor) -> Tensor:
    """(B, N) the items of the history, the last one first, and after them what is popular (B, N)."""
    places = np.arange(histories.items.shape[1])
    again = np.where(places < histories.lengths[:, None], places + 1.0, 0.0) * (1.0 + float(popularity.max()))
    recency = torch.zeros_like(popularity).scatter_reduce(
        1, torch.as_tensor(histories.items), torch.as_tensor(again, dtype=popularity.dtype), "amax"
    )
    return torch.maximum(recency, popularity)


def fused_ranks(retriever: FusedRetriever, sequences: Sequences, users: np.ndarray) -> Ranks:
    """Rank of each user's test item by student and fused, by protocol."""

    def lists(histories: Histories, restrictions: list[Restriction | None]) -> list[dict[str, BeamResult]]:
        searched = retriever.search(histories.items, histories.lengths, restrictions)
        return [{"student": one.beam, "fused": retriever.ranked(one.candidates)} for one in searched]

    return _ranks_in_lists(retriever, sequences, users, lists)


def student_ranks(retriever: GenerativeRetriever, sequences: Sequences, users: np.ndarray) -> Ranks:
    """Rank of each user's test item by the student alone, by protocol."""

    def lists(histories: Histories, restrictions: list[Restriction | None]) -> list[dict[str, BeamResult]]:
        return [{"student": one} for one in retriever.search(histories.items, histories.lengths, restrictions)]

    return _ranks_in_lists(retriever, sequences, users, lists)


def _ranks_in_lists(retriever: Retriever, sequences: Sequences, users: np.ndarray, lists: Lists) -> Ranks:
    """Rank of each user's test item in each model's list, by protocol.

    lists: histories and restrictions -> for each restriction, the list of each model.
    """
    ranks: Ranks = {}
    for rows in retriever.batches(sequences.lengths[users], most=len(users)):
        histories = sequences.held_out(users[rows], "test", retriever.history)
        targets = torch.as_tensor(histories.targets, device=retriever.device)
        restrictions = protocol_restrictions(retriever.tree, sequences, users[rows])
        for protocol, of_models in zip(restrictions, lists(histories, list(restrictions.values())), strict=True):
            for model, ranked in of_models.items():
                found = ranks.setdefault((model, protocol), np.zeros(len(users), np.int64))
                found[rows] = rank_in_list(ranked.items, targets).cpu().numpy()
    return ranks


def protocol_restrictions(
    tree: PrefixTree, sequences: Sequences, users: np.ndarray
) -> dict[Protocol, Restriction | None]:
    """What each protocol leaves to recommend for the test items."""
    seen = seen_before(sequences, users, "test").to(tree.order.device)
    return {Protocol.UNMASKED: None, Protocol.MASKED: Restriction(tree, denied=seen)}
