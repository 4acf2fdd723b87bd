"""Ranks by scores under the masked protocol."""

from __future__ import annotations

from torch import Tensor

from unigrec.core.evaluation.baselines import ranked_in_scores
from unigrec.core.evaluation.metrics import rank_among_unseen


def rank_in_unseen(scores: Tensor, targets: Tensor, seen: Tensor) -> Tensor:
    """Rank (B,) of each target among the items that were not seen: scores (B, N), items (B, T), padded with -1."""
    return rank_among_unseen(*ranked_in_scores(scores, targets, seen), targets, seen)
