"""Where each model ranks each user's test item: the student by beam search, the others by scoring the catalogue.

Shapes: U users, B users of a batch, N items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from unigrec.core.evaluation.metrics import rank_in_list, rank_in_scores, seen_before
from unigrec.core.evaluation.protocol import Protocol
from unigrec.core.models.recommender import Recommender
from unigrec.core.models.sasrec import SASRec
from unigrec.core.retrieval.cooccurrence import Cooccurrence, popularity_scores
from unigrec.core.retrieval.dense import teacher_scores
from unigrec.core.retrieval.generative import CPU, GenerativeRetriever
from unigrec.core.retrieval.prefix_tree import Restriction
from unigrec.core.sequences import Sequences, chunks_by_length

if TYPE_CHECKING:
    from unigrec.config.schema import EvaluateParams

Ranks = dict[tuple[str, str], np.ndarray]  # (model, protocol) -> (U,) rank of the test item, 0 if not found


def rank_test_items(
    sequences: Sequences,
    users: np.ndarray,
    teacher: SASRec,
    recommender: Recommender,
    codes: np.ndarray,
    params: EvaluateParams,
    history: int,
    device: torch.device = CPU,
) -> Ranks:
    """Ranks of all models for the same users.

    Args:
        codes: (N, T) hardened identifiers. history: items of history that student and co-occurrence read.
        device: where teacher and student run; both are moved to it.
    """
    baselines = Baselines(sequences, teacher, history, device)
    student = GenerativeRetriever.hardened(recommender, codes, history, params.beam, device)
    ranks: Ranks = {}
    for chunk in chunks_by_length(sequences.lengths[users], params.batch_size):
        found = baselines.ranks(users[chunk]) | student_ranks(student, sequences, users[chunk])
        for name, values in found.items():
            ranks.setdefault(name, np.zeros(len(users), np.int64))[chunk] = values
    return ranks


class Baselines:
    """Models that score the whole catalogue: popularity, item-item co-occurrence, and the teacher if given.

    Args:
        history: items of history that co-occurrence reads; the teacher has its own number.
    """

    def __init__(self, sequences: Sequences, teacher: SASRec | None, history: int, device: torch.device = CPU):
        self.sequences, self.history, self.device = sequences, history, device
        self.teacher = None if teacher is None else teacher.to(device)
        self.popularity, self.cooccurrence = popularity_scores(sequences), Cooccurrence(sequences)

    def ranks(self, users: np.ndarray) -> Ranks:
        """Rank of each user's test item, by model and protocol."""
        short = self.sequences.held_out(users, "test", self.history)
        targets = torch.as_tensor(short.targets, device=self.device)
        seen = seen_before(self.sequences, users, "test").to(self.device)
        scores = {
            "popularity": self.popularity.to(self.device).expand(len(users), -1),
            "cooccurrence": self.cooccurrence.scores(short).to(self.device),
        }
        if self.teacher is not None:
            long = self.sequences.held_out(users, "test", self.teacher.history)
            scores["teacher"] = teacher_scores(self.teacher, long.items, long.lengths, self.device)
        hidden = {Protocol.UNMASKED: None, Protocol.MASKED: seen}
        return {
            (model, protocol): rank_in_scores(values, targets, unwanted).cpu().numpy()
            for model, values in scores.items()
            for protocol, unwanted in hidden.items()
        }


def student_ranks(retriever: GenerativeRetriever, sequences: Sequences, users: np.ndarray) -> Ranks:
    """Rank of each user's test item, by protocol."""
    found: Ranks = {("student", protocol): np.zeros(len(users), np.int64) for protocol in Protocol}
    for rows in retriever.batches(sequences.lengths[users], most=len(users)):
        histories = sequences.held_out(users[rows], "test", retriever.history)
        targets = torch.as_tensor(histories.targets, device=retriever.device)
        seen = seen_before(sequences, users[rows], "test").to(retriever.device)
        restriction = {Protocol.UNMASKED: None, Protocol.MASKED: Restriction(retriever.tree, denied=seen)}
        lists = retriever.search(histories.items, histories.lengths, list(restriction.values()))
        for protocol, one in zip(restriction, lists, strict=True):
            found["student", protocol][rows] = rank_in_list(one.items, targets).cpu().numpy()
    return found
