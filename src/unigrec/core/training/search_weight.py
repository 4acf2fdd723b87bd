"""The weight of a query next to a history, fitted to validation users and queries made for what they took.

Shapes: U users, N items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from unigrec.core.evaluation.metrics import ndcg, rank_in_list
from unigrec.core.evaluation.protocol import GATED_CUTOFF
from unigrec.core.retrieval.beam import BeamResult
from unigrec.core.retrieval.retriever import Retriever
from unigrec.core.retrieval.search import AllScores, QueryCandidates

WEIGHTS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # that are tried


def fit_search_weight(
    retriever: Retriever, histories: Sequence[Sequence[int]], targets: Sequence[int], scores: Callable[[int], Tensor]
) -> float:
    """The weight with the best NDCG@10 of the targets; of equal ones, the smallest.

    Scores of histories are no calibrated log-probabilities, so the weight is found by trying.

    Args:
        histories: of U users, at least one, none empty. targets: (U,) what each took next.
        scores: row of a user -> (N,) scores of the user's query.
    """
    gains = np.zeros((len(histories), len(WEIGHTS)))
    for row, (history, target) in enumerate(zip(histories, targets, strict=True)):

        def search(_: Sequence[int], mask: Tensor | None, k: int, history: Sequence[int] = history) -> BeamResult:
            return retriever.retrieve([history], k, None if mask is None else mask.to(retriever.device))

        found = QueryCandidates.of(search, AllScores(scores(row)), GATED_CUTOFF, allowed=None)
        lists = torch.cat([found.ranked(weight, GATED_CUTOFF).items for weight in WEIGHTS])
        gains[row] = ndcg(rank_in_list(lists, torch.full((len(WEIGHTS),), target)).numpy(), GATED_CUTOFF)
    return WEIGHTS[int(gains.mean(0).argmax())]
