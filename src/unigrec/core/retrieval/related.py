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
from unigrec.core.retrieval.cells import Cells
from unigrec.core.retrieval.prefix_tree import PrefixTree

KIND_LEVELS = 1  # codes that items of one kind share
READ = 65_536  # items of the best cells of a large catalogue: here nothing else finds what they miss
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


def similar(
    tree: PrefixTree, codes: np.ndarray, vectors: Tensor, item: int, k: int, allowed: np.ndarray | None = None
) -> Similar:
    """Those that share the longest prefix of the identifier first; of equal prefixes the nearest vectors.

    Args:
        tree: of the first items; further ones were added after the training. codes: (N, L). vectors: (N, D) of length
            1, or 0 for nothing known. allowed: (N,) bool.
    """
    # A longer prefix always comes first: shorter ones are looked at only where the longer have too few items.
    for length in range(codes.shape[1], -1, -1):
        added = (codes[len(tree) :, :length] == codes[item, :length]).all(1)
        found = np.r_[np.sort(tree.under(codes[item, :length].tolist()).numpy()), len(tree) + np.flatnonzero(added)]
        found = found[found != item]
        found = found if allowed is None else found[allowed[found]]
        if len(found) >= k:
            break
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
    cells: Cells | None = None,
) -> Complements:
    """What is bought with the items of a basket (B,), each of them another kind than what is in it.

    Args:
        codes: (N, L). content: (N, D) of length 1, or 0. allowed: (N,) bool. cells: of the content, where a catalogue
            is too large to compare an item that is in no basket with all others.
    """
    stand_ins = np.array([baskets.starts[item] == baskets.starts[item + 1] for item in basket], bool)
    read = [
        _pairs_of_alike(baskets, content, item, cells) if replaced else baskets.pairs(item)
        for item, replaced in zip(basket, stand_ins, strict=True)
    ]
    items = np.unique(np.concatenate([others for others, _, _ in read]))
    scores, counts = np.zeros(len(items)), np.zeros((len(items), len(basket)), np.int64)
    for place, (others, times, lifts) in enumerate(read):
        rows = np.searchsorted(items, others)
        scores[rows] += lifts
        counts[rows, place] += times
    kind = codes[items, :KIND_LEVELS]
    permitted = (scores > 0) & ~(kind[:, None] == codes[basket, :KIND_LEVELS]).all(-1).any(1)
    permitted &= ~np.isin(items, basket)
    if allowed is not None:
        permitted &= allowed[items]
    found = np.flatnonzero(permitted)
    best = found[np.argsort(-scores[found], kind="stable")[:k]]
    return Complements(items[best], scores[best], counts[best], stand_ins)


def _pairs_of_alike(
    baskets: Baskets, content: Tensor, item: int, cells: Cells | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `Baskets.pairs`, of the items whose content is nearest: lifts are means weighted by the cosines.

    The counts are 0: nobody had the item itself in these baskets.
    """
    query = content[item].float()
    if cells is None:
        items, cosines = torch.arange(len(content)), products(content, query)
    else:
        items, cosines = (part[0] for part in cells.nearest([query[None]], READ))
    places = items.numpy()
    has_pairs = torch.as_tensor(baskets.starts[places + 1] > baskets.starts[places])
    cosines = cosines.masked_fill(~has_pairs, 0.0)
    nearest = cosines.topk(min(STAND_INS, len(cosines)))
    weights = nearest.values.clamp_min(0.0).double().numpy()
    shares = weights / max(weights.sum(), 1e-12)
    alike = zip(shares, items[nearest.indices].tolist(), strict=True)
    read = [(share, *baskets.pairs(other)) for share, other in alike if share > 0.0]
    others = np.unique(np.concatenate([np.empty(0, np.int64), *(found for _, found, _, _ in read)]))
    others = others[others != item]  # the items like it may have been bought with it
    lifts = np.zeros(len(others))
    for share, found, _, lift in read:
        kept = found != item
        lifts[np.searchsorted(others, found[kept])] += share * lift[kept]
    return others, np.zeros(len(others), np.int64), lifts
