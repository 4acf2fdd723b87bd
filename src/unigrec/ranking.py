"""Where each model ranks each user's test item: the student by beam search, the others by scoring the catalogue.

Shapes: U users, B users of a batch, N items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unigrec.data.batches import Histories, Sequences, in_chunks
from unigrec.decoding import PrefixTree, Restriction, beam_search
from unigrec.evaluation import Cooccurrence, popularity_scores, rank_in_list, rank_in_scores, seen_before
from unigrec.models.recommender import Recommender
from unigrec.models.sasrec import SASRec
from unigrec.models.unified import expand_history
from unigrec.training.teacher import teacher_scores
from unigrec.training.validation import hard_tokens

if TYPE_CHECKING:
    from unigrec.config import EvaluateParams

PROTOCOLS = ("unmasked", "masked")
Ranks = dict[tuple[str, str], np.ndarray]  # (model, protocol) -> (U,) rank of the test item, 0 where it was not found


def rank_test_items(
    sequences: Sequences,
    users: np.ndarray,
    teacher: SASRec,
    recommender: Recommender,
    codes: np.ndarray,
    params: EvaluateParams,
    history: int,
) -> Ranks:
    """Ranks of all models for the same users.

    Args:
        codes: (N, T) hardened identifiers. history: items of history that the student reads.
    """
    popularity, cooccurrence = popularity_scores(sequences), Cooccurrence(sequences)
    student = Student(recommender.eval(), codes, params.beam)
    pieces: dict[tuple[str, str], list[Tensor]] = {}
    for chunk in in_chunks(users, params.batch_size):
        short = sequences.held_out(chunk, "test", history)
        long = sequences.held_out(chunk, "test", teacher.history)
        seen, targets = seen_before(sequences, chunk, "test"), torch.as_tensor(short.targets)
        scores = {
            "popularity": popularity.expand(len(chunk), -1),
            "cooccurrence": cooccurrence.scores(short),
            "teacher": teacher_scores(teacher, long.items, long.lengths, torch.device("cpu")),
        }
        for protocol in PROTOCOLS:
            hidden = seen if protocol == "masked" else None
            for model, values in scores.items():
                pieces.setdefault((model, protocol), []).append(rank_in_scores(values, targets, hidden))
            found = student.recommend(short, hidden)
            pieces.setdefault(("student", protocol), []).append(rank_in_list(found, targets))
    return {name: torch.cat(parts).numpy() for name, parts in pieces.items()}


class Student:
    """The finetuned recommender with its prefix tree."""

    def __init__(self, recommender: Recommender, codes: np.ndarray, beam: int):
        self.recommender, self.beam = recommender, beam
        self.tree = PrefixTree(codes)
        self.tokens = hard_tokens(recommender, torch.as_tensor(codes))

    def recommend(self, histories: Histories, denied: Tensor | None = None) -> Tensor:
        """(B, beam) items. denied: (B, T) items that must not come back, padded with -1."""
        source, mask = expand_history(self.tokens, torch.as_tensor(histories.items), torch.as_tensor(histories.lengths))
        restriction = None if denied is None else Restriction(self.tree, denied=denied)
        return beam_search(self.recommender, self.tree, source, mask, self.beam, restriction).items
