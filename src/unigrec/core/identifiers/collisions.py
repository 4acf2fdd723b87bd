"""Hardening: one semantic ID an item, collisions resolved, and the health of the result.

Shapes: N items, L levels, K codewords.
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
from unigrec.core.sequences import split_by_total

AT_ONCE = 2**22  # numbers of the largest array of a pass over the catalogue


class Resolved(NamedTuple):
    """Identifiers without collisions."""

    codes: np.ndarray  # (N, L) or (N, L + 1) int64, rows distinct
    disambiguation: int  # range of the added code; 0 when none was added
    extra_distance: float  # mean squared distance that reassignment costs an item (0 for disambiguation)


@torch.no_grad()
def hard_codes(tokenizer: Tokenizer, embeddings: Tensor) -> np.ndarray:
    """Codes with hard residuals: (N, D) -> (N, L) int64."""
    tokenizer.eval()
    size = items_at_once(tokenizer)
    parts = [tokenizer.quantize_hard(tokenizer.encoder(chunk)).codes for chunk in embeddings.split(size)]
    return torch.cat(parts).cpu().numpy()


def items_at_once(tokenizer: Tokenizer) -> int:
    return max(AT_ONCE // (tokenizer.levels * tokenizer.codebook_size), 1)


def group_of(codes: np.ndarray) -> np.ndarray:
    """(N, L) -> (N,) number of the distinct row that each row equals, rows in lexicographic order."""
    groups = np.zeros(len(codes), np.int64)
    for level in codes.T:  # sorting numbers is many times as fast as sorting rows
        groups = np.unique(groups * (level.max(initial=0) + 1) + level, return_inverse=True)[1]
    return groups


def is_colliding(codes: np.ndarray) -> np.ndarray:
    """(N, L) -> (N,) whether another item has the same codes."""
    groups = group_of(codes)
    return np.bincount(groups)[groups] > 1


def collision_rate(codes: np.ndarray) -> float:
    """Share of items whose L codes another item has too."""
    return float(is_colliding(codes).mean())


def resolve(
    tokenizer: Tokenizer,
    embeddings: Tensor,
    popularity: np.ndarray,
    resolution: str,
    earlier: np.ndarray | None = None,
) -> Resolved:
    """Identifiers of today's tokenizer without collisions.

    resolution: disambiguate or reassign. earlier: (N, L) identifiers that a reassignment keeps where it can.
    """
    codes = hard_codes(tokenizer, embeddings)
    if resolution == "reassign":
        return reassign(tokenizer, embeddings, codes, earlier)
    return disambiguate(codes, popularity)


def disambiguate(codes: np.ndarray, popularity: np.ndarray) -> Resolved:
    """Add a code that counts the items of each colliding group, the most popular first.

    Its range is what the catalogue needs: the size of the largest group.
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
    tokenizer: Tokenizer, embeddings: Tensor, codes: np.ndarray, earlier: np.ndarray | None = None
) -> Resolved:
    """Keep the first L - 1 codes and give the last level anew, at least total distance, so that no two items collide.

    Only prefixes with a collision are touched (arXiv 2605.25330).

    earlier: (N, L) identifiers of some earlier moment, -1 for an item that had none. Where a prefix is touched, as many
        of its items as possible keep the identifier that they had; distances decide about the others.

    Raises:
        TrainingError: a prefix holds more items than the last level has codewords.
    """
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
    """(m, K) cost where an earlier identifier with today's prefix outweighs all distances together."""
    wanted = cost.copy()
    rows = np.flatnonzero((earlier[:, :-1] == prefix).all(1))
    wanted[rows, earlier[rows, -1]] -= cost.max(1, initial=0.0).sum() + 1.0
    return wanted


def last_level_distances(tokenizer: Tokenizer, embeddings: Tensor, prefix: np.ndarray) -> np.ndarray:
    """(m, D) and their first L - 1 codes -> (m, K) squared distances of the last residual to the last codebook."""
    residual = tokenizer.encoder(embeddings)
    for level in range(prefix.shape[1]):
        residual = residual - tokenizer.codebooks[level][torch.as_tensor(prefix[:, level], device=residual.device)]
    return squared_distances(residual, tokenizer.codebooks[-1]).double().cpu().numpy()
