"""The search of a set decoder: one pass scores every item, so what it finds is exact.

Shapes: B users, S tokens of a history, E d_model, W items to find, N items, T codes of an identifier.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unigrec.core.models.item_scores import CodeSums, ItemScores
from unigrec.core.models.recommender import Recommender
from unigrec.core.retrieval.beam import BeamResult, Repeats
from unigrec.core.retrieval.prefix_tree import PrefixTree, Restriction


@torch.inference_mode()
def scan_catalogue(
    recommender: Recommender,
    tree: PrefixTree,
    source: Tensor,
    mask: Tensor,
    widths: int | Sequence[int],
    restrictions: Sequence[Restriction | None],
    repeats: Repeats | None = None,
    above: Sequence[float] | None = None,
) -> list[BeamResult]:
    """For each restriction the best items and their log-probabilities. Arguments as in `beam_searches`.

    widths: how many items to find, one number for all restrictions or one for each.
    """
    scores = catalogue_scores(recommender, tree.codes, source, mask, repeats)
    found = []
    each = [widths] * len(restrictions) if isinstance(widths, int) else widths
    bounds = above or [float("-inf")] * len(restrictions)
    for width, restriction, bound in zip(each, restrictions, bounds, strict=True):
        permitted = scores.masked_fill(scores <= bound, float("-inf"))
        if restriction is not None:
            permitted = permitted.masked_fill(~restriction.permitted(len(scores)), float("-inf"))
        best = permitted.topk(min(width, permitted.shape[1]), dim=-1)
        found.append(BeamResult(best.indices.masked_fill(best.values == float("-inf"), -1), best.values))
    return found


@torch.inference_mode()
def catalogue_scores(
    recommender: Recommender, codes: Tensor, source: Tensor, mask: Tensor, repeats: Repeats | None = None
) -> Tensor:
    """Log-probability of every item: codes (N, T), source (B, S, E), mask (B, S) -> (B, N)."""
    logits = recommender.all_logits(recommender.decode_set(recommender.encode(source, mask), mask))
    scores = ItemScores(torch.cat(logits, dim=-1).float(), *(repeats or ()))
    return scores.columns(CodeSums(codes, recommender.config.code_sizes)).T.contiguous().log_softmax(-1)
