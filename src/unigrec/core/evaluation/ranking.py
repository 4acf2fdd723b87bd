"""Where each model ranks each user's test item.

The models are those of `Baselines`, which rank the whole catalogue, student (the generative part) and fused (all
parts), which rank the candidates that a search finds.

Shapes: U users, B users of a batch, N items.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from unigrec.core.evaluation.baselines import Baselines, Ranks
from unigrec.core.evaluation.metrics import rank_in_list, seen_before
from unigrec.core.evaluation.protocol import Protocol
from unigrec.core.retrieval.beam import BeamResult
from unigrec.core.retrieval.fused import FusedRetriever
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.retrieval.prefix_tree import PrefixTree, Restriction
from unigrec.core.retrieval.retriever import Retriever
from unigrec.core.sequences import Histories, Sequences, chunks_by_length

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
