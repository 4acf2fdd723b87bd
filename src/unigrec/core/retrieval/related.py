"""From items to items: what is like an item (substitutes), and what is bought with items of another kind (complements).

Items that share the first codes of their identifiers are of the same kind: a tokenizer puts near items together.

Shapes: N items, L codes of an identifier, D dimensions, B items of a basket, m candidates, k items found.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.core.blocks import products
from unigrec.core.retrieval.baskets import Baskets

KIND_LEVELS = 1  # codes that items of one kind share
STAND_INS = 10  # items like the asked one, whose baskets count where it was in none


class Similar(NamedTuple):
    """The items most like one item, best first."""

    items: np.ndarray  # (k,) catalogue indices
    shared: np.ndarray  # (k,) first codes that are the same
    scores: np.ndarray  # (k,) cosine of the item vectors


class Complements(NamedTuple):
    """The items that go best with a basket, best first."""

    items: np.ndarray  # (k,) catalogue indices
    scores: np.ndarray  # (k,) sum of the lifts with the items of the basket
    counts: np.ndarray  # (k, B) baskets with the found item and that item of the basket, or one like it
    stand_ins: np.ndarray  # (B,) whether an item of the basket was in no counted pair: items like it were read


def similar(codes: np.ndarray, vectors: Tensor, item: int, k: int, allowed: np.ndarray | None = None) -> Similar:
    """Those that share the longest prefix of the identifier first; of equal prefixes the nearest vectors.

    Args:
        codes: (N, L). vectors: (N, D) of length 1, or 0 for nothing known. allowed: (N,) bool.
    """
    permitted = np.ones(len(codes), bool) if allowed is None else allowed.copy()
    permitted[item] = False
    # A longer prefix always comes first: items of another first code are looked at only where its own are too few.
    found = np.flatnonzero(permitted & (codes[:, 0] == codes[item, 0]))
    if len(found) < k:
        found = np.flatnonzero(permitted)
    shared = np.cumprod(codes[found] == codes[item], axis=1).sum(1)
    cosines = products(vectors, vectors[item].float(), torch.as_tensor(found)).double().numpy()
    order = np.lexsort((-cosines, -shared))[:k]  # stable: ties in the order of the catalogue
    return Similar(found[order], shared[order], cosines[order])


def complements(
    baskets: Baskets,
    codes: np.ndarray,
    content: Tensor,
    basket: np.ndarray,
    k: int,
    allowed: np.ndarray | None = None,
) -> Complements:
    """What is bought with the items of a basket (B,), each of them another kind than what is in it.

    Args:
        codes: (N, L). content: (N, D) of length 1, or 0. allowed: (N,) bool.
    """
    scores = np.zeros(len(codes))
    counts = np.zeros((len(codes), len(basket)), np.int64)
    stand_ins = np.zeros(len(basket), bool)
    for place, item in enumerate(basket):
        others, times, lifts = baskets.pairs(item)
        stand_ins[place] = not len(others)
        if not len(others):
            others, times, lifts = _pairs_of_alike(baskets, content, item)
        scores[others] += lifts
        counts[others, place] += times
    kind = codes[:, :KIND_LEVELS]
    permitted = (scores > 0) & ~(kind[:, None] == kind[basket]).all(-1).any(1)
    permitted[basket] = False
    if allowed is not None:
        permitted &= allowed
    found = np.flatnonzero(permitted)
    best = found[np.argsort(-scores[found], kind="stable")[:k]]
    return Complements(best, scores[best], counts[best], stand_ins)


def _pairs_of_alike(baskets: Baskets, content: Tensor, item: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `Baskets.pairs`, of the items whose content is nearest: lifts are means weighted by the cosines."""
    has_pairs = torch.as_tensor(np.diff(baskets.starts) > 0)
    cosines = products(content, content[item].float()).masked_fill(~has_pairs, 0.0)
    nearest = cosines.topk(min(STAND_INS, len(cosines)))
    weights = nearest.values.clamp_min(0.0).double().numpy()
    counts, lifts = np.zeros(len(content), np.int64), np.zeros(len(content))
    for weight, alike in zip(weights / max(weights.sum(), 1e-12), nearest.indices.tolist(), strict=True):
        if weight > 0.0:
            others, times, lift = baskets.pairs(alike)
            counts[others] += times
            lifts[others] += weight * lift
    counts[item] = 0  # the items like it may have been bought with it
    others = np.flatnonzero(counts)
    return others, counts[others], lifts[others]
