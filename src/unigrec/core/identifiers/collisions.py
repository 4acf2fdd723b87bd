"""Hardening: one semantic ID per item, and no two items with the same.

Shapes: N items, D numbers per embedding, L levels, K codewords, m items of some prefixes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from unigrec.base.errors import TrainingError
from unigrec.core.models.tokenizers.kmeans import squared_distances
from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.core.models.vectors import Vectors
from unigrec.core.sequences import split_by_total

AT_ONCE = 2**22  # maximum number of elements in any array of one pass over the catalogue


class Resolved(NamedTuple):
    """Identifiers without collisions."""

    codes: np.ndarray  # (N, L) or (N, L + 1) int64, rows distinct
    disambiguation: int  # range of the added code; 0 if none was added
    extra_distance: float  # mean squared distance per item that reassignment costs (0 for disambiguation)


@torch.no_grad()
def hard_codes(tokenizer: Tokenizer, embeddings: Vectors) -> np.ndarray:
    """Codes with hard residuals: (N, D) -> (N, L) int64."""
    tokenizer.eval()
    # Filled part by part: a list of small results between large ones would leave holes in the heap.
    codes, done = np.empty((len(embeddings), tokenizer.levels), np.int64), 0
    for chunk in embeddings.split(items_at_once(tokenizer)):
        codes[done : done + len(chunk)] = tokenizer.quantize_hard(tokenizer.encoder(chunk)).codes.cpu().numpy()
        done += len(chunk)
    return codes


def items_at_once(tokenizer: Tokenizer) -> int:
    """How many items one pass takes at a time."""
    return max(AT_ONCE // (tokenizer.levels * tokenizer.codebook_size), 1)


def group_of(codes: np.ndarray) -> np.ndarray:
    """Number the distinct rows in lexicographic order: (N, L) -> (N,) number of each row."""
    groups = np.zeros(len(codes), np.int64)
    for level in codes.T:  # to sort numbers is many times faster than to sort rows
        groups = np.unique(groups * (level.max(initial=0) + 1) + level, return_inverse=True)[1]
    return groups


def is_colliding(codes: np.ndarray) -> np.ndarray:
    """(N, L) -> (N,) whether another item has the same codes."""
    groups = group_of(codes)
    return np.bincount(groups)[groups] > 1


def collision_rate(codes: np.ndarray) -> float:
    """Share of items that have all L codes in common with another item."""
    return float(is_colliding(codes).mean())


def resolve(
    tokenizer: Tokenizer,
    embeddings: Vectors,
    popularity: np.ndarray,
    resolution: str,
    earlier: np.ndarray | None = None,
) -> Resolved:
    """Identifiers without collisions, from today's tokenizer.

    resolution: disambiguate or reassign. earlier: (N, L) identifiers that a reassignment keeps if it can.
    """
    codes = hard_codes(tokenizer, embeddings)
    if resolution == "reassign":
        return reassign(tokenizer, embeddings, codes, earlier)
    return disambiguate(codes, popularity)


def disambiguate(codes: np.ndarray, popularity: np.ndarray) -> Resolved:
    """Add a code that numbers the items with equal codes, the most popular first.

    Its range is the size of the largest group of such items.
    """
    groups = group_of(codes)
    order = np.lexsort((np.arange(len(codes)), -popularity, groups))
    starts = np.r_[0, np.flatnonzero(np.diff(groups[order])) + 1]
    position = np.arange(len(codes)) - np.repeat(starts, np.diff(np.r_[starts, len(codes)]))
    extra = np.empty(len(codes), np.int64)
    extra[order] = position
    return Resolved(np.column_stack([codes, extra]), int(extra.max()) + 1, 0.0)


@torch.no_grad()
def reassign(
    tokenizer: Tokenizer, embeddings: Vectors, codes: np.ndarray, earlier: np.ndarray | None = None
) -> Resolved:
    """Assign the codes of the last level again, at minimum total distance, so that no two items collide.

    The first L - 1 codes stay. Only prefixes with a collision are touched (arXiv 2605.25330).

    earlier: (N, L) earlier identifiers, -1 for an item without one. If a prefix is touched, as many of its items as
        possible keep their earlier identifier; distances decide about the others.

    Raises:
        TrainingError: a prefix holds more items than the last level has codewords.
    """
    # Find the prefixes with a collision, and sort their items by prefix.
    resolved, prefixes, size = codes.copy(), group_of(codes[:, :-1]), tokenizer.codebook_size
    touched = np.bincount(prefixes, weights=is_colliding(codes)) > 0  # (prefixes,)
    items = np.flatnonzero(touched[prefixes])
    items = items[np.argsort(prefixes[items], kind="stable")]
    counts = np.bincount(prefixes[items], minlength=len(touched))[touched]  # items of each touched prefix
    if counts.max(initial=0) > size:
        raise TrainingError(
            f"{counts.max()} items share the first {codes.shape[1] - 1} codes, but the last level has {size} "
            "codewords; choose a larger tokenizer.codebook_size, or harden.resolution: disambiguate"
        )
    # Some prefixes at a time: distances of their items to every codeword, then one assignment per prefix.
    extra = 0.0
    for piece in split_by_total(counts, counts, items_at_once(tokenizer)):
        members, items = np.split(items, [piece.sum()])
        cost = last_level_distances(tokenizer, embeddings[members], codes[members, :-1])
        ends = np.cumsum(piece)
        wanted = cost if earlier is None else _towards(cost, codes[members, :-1], earlier[members])
        chosen = np.concatenate([linear_sum_assignment(part)[1] for part in np.split(wanted, ends[:-1])])
        extra += float(cost[np.arange(len(members)), chosen].sum() - cost.min(1).sum())
        resolved[members, -1] = chosen
    return Resolved(resolved, 0, extra / len(codes))


def _towards(cost: np.ndarray, prefix: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    """(m, K) cost in which an earlier identifier with today's prefix outweighs the sum of all distances."""
    wanted = cost.copy()
    known = (earlier >= 0).all(1)  # of a single level, every prefix is today's
    rows = np.flatnonzero(known & (earlier[:, :-1] == prefix).all(1))
    wanted[rows, earlier[rows, -1]] -= cost.max(1, initial=0.0).sum() + 1.0
    return wanted


def last_level_distances(tokenizer: Tokenizer, embeddings: Tensor, prefix: np.ndarray) -> np.ndarray:
    """Squared distances (m, K) of the last residual to the last codebook, from embeddings (m, D) and L - 1 codes."""
    residual = tokenizer.encoder(embeddings)
    for level in range(prefix.shape[1]):
        residual = residual - tokenizer.codebooks[level][torch.as_tensor(prefix[:, level], device=residual.device)]
    return squared_distances(residual, tokenizer.codebooks[-1]).double().cpu().numpy()
