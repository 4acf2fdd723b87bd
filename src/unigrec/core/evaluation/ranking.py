"""Where each model ranks each user's test item: the student by beam search, the others by scoring the catalogue.

Shapes: U users, B users of a batch, N items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unigrec.core.evaluation.metrics import rank_in_list, rank_in_scores, seen_before
from unigrec.core.models.recommender import Recommender
from unigrec.core.models.sasrec import SASRec
from unigrec.core.models.unified import embed_hard_history
from unigrec.core.retrieval.beam import beam_searches, search_batch
from unigrec.core.retrieval.cooccurrence import Cooccurrence, popularity_scores
from unigrec.core.retrieval.dense import teacher_scores
from unigrec.core.retrieval.prefix_tree import PrefixTree, Restriction
from unigrec.core.sequences import Histories, Sequences, in_chunks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unigrec.config.schema import EvaluateParams

PROTOCOLS = ("unmasked", "masked")
Ranks = dict[tuple[str, str], np.ndarray]  # (model, protocol) -> (U,) rank of the test item, 0 where it was not found
CPU = torch.device("cpu")


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
        device: where teacher and student run; both are moved there.
    """
    baselines = Baselines(sequences, teacher, history, device)
    student = Student(recommender, codes, params.beam, device)
    ranks: Ranks = {}
    for chunk in in_chunks(np.argsort(sequences.lengths[users], kind="stable"), params.batch_size):  # little padding
        found = baselines.ranks(users[chunk]) | student.ranks(sequences, users[chunk], history)
        for name, values in found.items():
            ranks.setdefault(name, np.zeros(len(users), np.int64))[chunk] = values
    return ranks


class Baselines:
    """Models that score the whole catalogue: popularity, item-item co-occurrence, and the teacher where there is one.

    Args:
        history: items of history that co-occurrence reads; the teacher reads its own number.
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
        return {
            (model, protocol): rank_in_scores(values, targets, seen if protocol == "masked" else None).cpu().numpy()
            for model, values in scores.items()
            for protocol in PROTOCOLS
        }


class Student:
    """The finetuned recommender with its prefix tree."""

    def __init__(self, recommender: Recommender, codes: np.ndarray, beam: int, device: torch.device = CPU):
        self.recommender, self.beam, self.device = recommender.to(device).eval(), beam, device
        self.tree = PrefixTree(codes, device)
        self.codes = torch.as_tensor(codes[:, : recommender.config.levels], device=device)  # what a history is read as

    @torch.no_grad()
    def embedded(self, histories: Histories) -> tuple[Tensor, Tensor]:
        """The recommender's input and its mask, as `embed_hard_history` makes them."""
        items, lengths = (torch.as_tensor(part, device=self.device) for part in (histories.items, histories.lengths))
        return embed_hard_history(self.recommender, self.codes[items], lengths)

    def recommend(self, histories: Histories, denied: Sequence[Tensor | None] = (None,)) -> list[Tensor]:
        """(B, beam) items for each of several lists (B, T) of items that must not come back, padded with -1."""
        source, mask = self.embedded(histories)
        restrictions = [
            None if unwanted is None else Restriction(self.tree, denied=unwanted.to(self.device)) for unwanted in denied
        ]
        found = beam_searches(self.recommender, self.tree, source, mask, self.beam, restrictions)
        return [one.items for one in found]

    def ranks(self, sequences: Sequences, users: np.ndarray, history: int) -> Ranks:
        """Rank of each user's test item, by protocol."""
        found: Ranks = {("student", protocol): np.zeros(len(users), np.int64) for protocol in PROTOCOLS}
        at_once = search_batch(self.device, len(users))
        for part in in_chunks(np.argsort(sequences.lengths[users], kind="stable"), at_once):  # little padding
            histories = sequences.held_out(users[part], "test", history)
            targets = torch.as_tensor(histories.targets, device=self.device)
            seen = seen_before(sequences, users[part], "test")
            denied = [seen if protocol == "masked" else None for protocol in PROTOCOLS]
            for protocol, items in zip(PROTOCOLS, self.recommend(histories, denied), strict=True):
                found["student", protocol][part] = rank_in_list(items, targets).cpu().numpy()
        return found
