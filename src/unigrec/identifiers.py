"""Hardening: one semantic ID an item, collisions resolved, and the health of the result.

Shapes: N items, L levels, K codewords.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.errors import TrainingError
from unigrec.models.tokenizer import Tokenizer, squared_distances

CHUNK = 65536  # items quantized at once


class Resolved(NamedTuple):
    """Identifiers without collisions."""

    codes: np.ndarray  # (N, L) or (N, L + 1) int64, rows distinct
    disambiguation: int  # range of the added code; 0 when none was added
    extra_distance: float  # mean squared distance that reassignment costs an item (0 for disambiguation)


@torch.no_grad()
def hard_codes(tokenizer: Tokenizer, embeddings: Tensor) -> np.ndarray:
    """Codes with hard residuals: (N, D) -> (N, L) int64."""
    tokenizer.eval()
    parts = [tokenizer.quantize_hard(tokenizer.encoder(chunk)).codes for chunk in embeddings.split(CHUNK)]
    return torch.cat(parts).cpu().numpy()


def group_of(codes: np.ndarray) -> np.ndarray:
    """(N, L) -> (N,) number of the distinct row that each row equals."""
    return np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)


def collision_rate(codes: np.ndarray) -> float:
    """Share of items whose L codes another item has too."""
    groups = group_of(codes)
    return float((np.bincount(groups)[groups] > 1).mean())


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
def reassign(tokenizer: Tokenizer, embeddings: Tensor, codes: np.ndarray) -> Resolved:
    """Keep the first L - 1 codes and give the last level anew, at least total distance, so that no two items collide.

    Only prefixes with a collision are touched (arXiv 2605.25330).

    Raises:
        TrainingError: a prefix holds more items than the last level has codewords.
    """
    resolved = codes.copy()
    prefixes = group_of(codes[:, :-1]) if codes.shape[1] > 1 else np.zeros(len(codes), np.int64)
    size = tokenizer.codebook_size
    extra = 0.0
    for prefix in np.unique(prefixes[np.isin(group_of(codes), repeated(group_of(codes)))]):
        members = np.flatnonzero(prefixes == prefix)
        if len(members) > size:
            raise TrainingError(
                f"{len(members)} items share the first {codes.shape[1] - 1} codes, but the last level has {size} "
                "codewords; choose a larger tokenizer.codebook_size, or harden.resolution: disambiguate"
            )
        cost = last_level_distances(tokenizer, embeddings[members], codes[members, :-1])
        chosen = minimum_cost_assignment(cost)
        extra += float(cost[np.arange(len(members)), chosen].sum() - cost.min(1).sum())
        resolved[members, -1] = chosen
    return Resolved(resolved, 0, extra / len(codes))


def repeated(groups: np.ndarray) -> np.ndarray:
    """Group numbers that occur more than once."""
    return np.flatnonzero(np.bincount(groups) > 1)


def last_level_distances(tokenizer: Tokenizer, embeddings: Tensor, prefix: np.ndarray) -> np.ndarray:
    """(m, D) and their first L - 1 codes -> (m, K) squared distances of the last residual to the last codebook."""
    residual = tokenizer.encoder(embeddings)
    for level in range(prefix.shape[1]):
        residual = residual - tokenizer.codebooks[level][torch.as_tensor(prefix[:, level], device=residual.device)]
    return squared_distances(residual, tokenizer.codebooks[-1]).double().cpu().numpy()


def minimum_cost_assignment(cost: np.ndarray) -> np.ndarray:
    """Columns for rows of a (m, n) cost, m <= n, at least total cost: shortest augmenting paths (Jonker-Volgenant)."""
    rows, columns = cost.shape
    row_price, column_price = np.zeros(rows + 1), np.zeros(columns + 1)
    owner = np.zeros(columns + 1, np.int64)  # row (from 1) that a column belongs to; column 0 is the free start
    for row in range(1, rows + 1):
        owner[0], column = row, 0
        shortest = np.full(columns + 1, np.inf)
        previous = np.zeros(columns + 1, np.int64)
        done = np.zeros(columns + 1, bool)
        while owner[column]:
            done[column] = True
            current = owner[column]
            reduced = cost[current - 1] - row_price[current] - column_price[1:]
            better = ~done[1:] & (reduced < shortest[1:])
            shortest[1:][better] = reduced[better]
            previous[1:][better] = column
            following = int(np.where(done, np.inf, shortest)[1:].argmin()) + 1
            delta = shortest[following]
            row_price[owner[done]] += delta
            column_price[done] -= delta
            shortest[~done] -= delta
            column = following
        while column:
            owner[column] = owner[previous[column]]
            column = previous[column]
    chosen = np.empty(rows, np.int64)
    taken = np.flatnonzero(owner[1:])
    chosen[owner[1:][taken] - 1] = taken
    return chosen


def codebook_usage(codes: np.ndarray, size: int) -> np.ndarray:
    """(N, L) -> (L, K) share of items on each codeword."""
    return np.stack([np.bincount(level, minlength=size) / len(codes) for level in codes.T])


def entropy_bits(usage: np.ndarray) -> np.ndarray:
    """(..., K) shares -> (...) entropy in bits."""
    safe = np.where(usage > 0, usage, 1.0)
    return -(usage * np.log2(safe)).sum(-1)


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of non-negative counts: 0 when all are equal."""
    ordered = np.sort(counts.astype(np.float64))
    ranks = np.arange(1, len(ordered) + 1)
    return float((2 * ranks - len(ordered) - 1) @ ordered / (len(ordered) * ordered.sum()))


def churn(previous: np.ndarray, current: np.ndarray) -> list[float]:
    """Share of items whose code changed, per level: (N, L) twice."""
    return [float(share) for share in (previous != current).mean(0)]


@torch.no_grad()
def health(tokenizer: Tokenizer, embeddings: Tensor, popularity: np.ndarray, temperature: float) -> dict:
    """Identifier health of method.md section 7, as a flat dictionary of numbers and lists per level.

    Args:
        embeddings: (N, D). popularity: (N,) training interactions. temperature: the one of the joint phase.
    """
    latent = tokenizer.encoder(embeddings)
    soft, hard = tokenizer.quantize_soft(latent, temperature), tokenizer.quantize_hard(latent)
    codes = hard.codes.cpu().numpy()
    groups = group_of(codes)
    colliding = np.bincount(groups)[groups] > 1
    usage = codebook_usage(codes, tokenizer.codebook_size)
    soft_codes = soft.logits.argmax(-1).cpu().numpy()
    prefix_sizes = [np.bincount(group_of(codes[:, : level + 1])) for level in range(codes.shape[1])]
    return {
        "items": len(codes),
        "collision_rate": float(colliding.mean()),
        "collision_rate_by_popularity": float((colliding * popularity).sum() / max(popularity.sum(), 1)),
        "largest_collision": int(np.bincount(groups).max()),
        "codebook_utilisation": [float(level) for level in (usage > 0).mean(1)],
        "entropy_bits": [float(bits) for bits in entropy_bits(usage)],
        "gini_of_prefixes": [gini(sizes) for sizes in prefix_sizes],
        "reconstruction_soft": float((tokenizer.decode(soft.quantized) - embeddings).square().mean()),
        "reconstruction_hard": float((tokenizer.decode(hard.quantized) - embeddings).square().mean()),
        "soft_hard_disagreement": float((soft_codes != codes).any(1).mean()),
    }
