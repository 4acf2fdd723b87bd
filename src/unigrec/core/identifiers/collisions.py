"""Hardening: one semantic ID an item, collisions resolved, and the health of the result.

Shapes: N items, L levels, K codewords.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.base.errors import TrainingError
from unigrec.core.models.tokenizers.kmeans import squared_distances
from unigrec.core.models.tokenizers.residual import HardCodes, SoftCodes, Tokenizer

if TYPE_CHECKING:
    from unigrec.core.retrieval.cooccurrence import Cooccurring

AT_ONCE = 2**22  # numbers of the largest array of a pass over the catalogue
HIT_NEIGHBOURS = 10  # co-occurring items that the hit rate looks for ...
HIT_NEAREST = 100  # ... among so many nearest items ...
HIT_SAMPLE = 4096  # ... for so many items of a larger catalogue


class Quantized(NamedTuple):
    """A part of the catalogue, soft and hard."""

    embeddings: Tensor  # (n, D)
    latent: Tensor  # (n, C)
    soft: SoftCodes
    hard: HardCodes


class Resolved(NamedTuple):
    """Identifiers without collisions."""

    codes: np.ndarray  # (N, L) or (N, L + 1) int64, rows distinct
    disambiguation: int  # range of the added code; 0 when none was added
    extra_distance: float  # mean squared distance that reassignment costs an item (0 for disambiguation)


@torch.no_grad()
def hard_codes(tokenizer: Tokenizer, embeddings: Tensor) -> np.ndarray:
    """Codes with hard residuals: (N, D) -> (N, L) int64."""
    tokenizer.eval()
    size = _items_at_once(tokenizer)
    parts = [tokenizer.quantize_hard(tokenizer.encoder(chunk)).codes for chunk in embeddings.split(size)]
    return torch.cat(parts).cpu().numpy()


def _items_at_once(tokenizer: Tokenizer) -> int:
    return max(AT_ONCE // (tokenizer.levels * tokenizer.codebook_size), 1)


@torch.no_grad()
def _quantize(tokenizer: Tokenizer, embeddings: Tensor, temperature: float) -> Iterator[Quantized]:
    """The catalogue part by part: what a pass needs in memory does not grow with N."""
    tokenizer.eval()
    for chunk in embeddings.split(_items_at_once(tokenizer)):
        latent = tokenizer.encoder(chunk)
        yield Quantized(chunk, latent, tokenizer.quantize_soft(latent, temperature), tokenizer.quantize_hard(latent))


def _disagreement(part: Quantized) -> np.ndarray:
    """(n,) whether an item's most probable soft codes differ from its hard ones at any level."""
    return (part.soft.probabilities.argmax(-1) != part.hard.codes).any(1).cpu().numpy()


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
    for piece in _pieces(counts, _items_at_once(tokenizer)):
        members, items = np.split(items, [piece.sum()])
        cost = last_level_distances(tokenizer, embeddings[members], codes[members, :-1])
        ends = np.cumsum(piece)
        wanted = cost if earlier is None else _towards(cost, codes[members, :-1], earlier[members])
        chosen = np.concatenate([minimum_cost_assignment(part) for part in np.split(wanted, ends[:-1])])
        extra += float(cost[np.arange(len(members)), chosen].sum() - cost.min(1).sum())
        resolved[members, -1] = chosen
    return Resolved(resolved, 0, extra / len(codes))


def _towards(cost: np.ndarray, prefix: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    """(m, K) cost where an earlier identifier with today's prefix outweighs all distances together."""
    wanted = cost.copy()
    rows = np.flatnonzero((earlier[:, :-1] == prefix).all(1))
    wanted[rows, earlier[rows, -1]] -= cost.max(1, initial=0.0).sum() + 1.0
    return wanted


def _pieces(counts: np.ndarray, at_once: int) -> list[np.ndarray]:
    """Consecutive counts that together come to about `at_once`; none where there are no counts."""
    piece = np.cumsum(counts) // at_once
    return np.split(counts, np.flatnonzero(np.diff(piece)) + 1) if len(counts) else []


def last_level_distances(tokenizer: Tokenizer, embeddings: Tensor, prefix: np.ndarray) -> np.ndarray:
    """(m, D) and their first L - 1 codes -> (m, K) squared distances of the last residual to the last codebook."""
    residual = tokenizer.encoder(embeddings)
    for level in range(prefix.shape[1]):
        residual = residual - tokenizer.codebooks[level][torch.as_tensor(prefix[:, level], device=residual.device)]
    return squared_distances(residual, tokenizer.codebooks[-1]).double().cpu().numpy()


def minimum_cost_assignment(cost: np.ndarray) -> np.ndarray:
    """Columns for rows of a (m, n) cost, m <= n, at least total cost: shortest augmenting paths (Jonker-Volgenant).

    Each column first goes to a row that it is the cheapest of; paths are sought for the rows that are left.
    """
    rows, columns = cost.shape
    row_price, column_price = np.r_[0.0, cost.min(1)], np.zeros(columns + 1)
    owner = np.zeros(columns + 1, np.int64)  # row (from 1) that a column belongs to; column 0 is the free start
    wanted, first = np.unique(cost.argmin(1), return_index=True)
    owner[wanted + 1] = first + 1
    for row in np.setdiff1d(np.arange(rows), first) + 1:
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


class Churn(NamedTuple):
    """How far the identifiers of a catalogue are what they were."""

    items: int  # of today's, those that had one before
    changed: float | None  # share of these whose identifier is another; None where there is none
    per_level: list[float] | None  # share whose code is another; None as well where the identifiers had another length

    def as_dict(self) -> dict[str, Any]:
        """As a health report has it, of a training that started from a bundle."""
        return {"start_items": self.items, "start_changed": self.changed, "start_churn": self.per_level}


def churn_against(earlier: np.ndarray, now: np.ndarray) -> Churn:
    """Today's identifiers beside those of before; identifiers of another length are all others.

    earlier: (N, T) the same items' earlier identifiers, -1 for an item that had none. now: (N, T') today's.
    """
    common = np.flatnonzero((earlier >= 0).all(1))
    if not len(common):
        return Churn(0, None, None)
    if earlier.shape[1] != now.shape[1]:
        return Churn(len(common), 1.0, None)
    old, new = earlier[common], now[common]
    return Churn(len(common), float((old != new).any(1).mean()), churn(old, new))


def identifier_curve(
    tokenizer: Tokenizer, embeddings: Tensor, temperature: float, first_codes: np.ndarray | None = None
) -> dict[str, float]:
    """Today's identifiers in a few figures, for a row of a training's history; one pass over the catalogue.

    Args:
        embeddings: (N, D), on the tokenizer's device. temperature: that of the soft codes.
        first_codes: (N, L) hard codes of some earlier moment that today's are held against.

    Returns:
        `collision_rate`, `soft_hard_disagreement` (share of items whose soft and hard codes differ), and for each level
        `entropy_level_1` ... in bits. With `first_codes` also `churn_level_1` ..., and `changed_at_most_one_level`: the
        share of items that kept all of their first codes but one, or all.
    """
    parts = _quantize(tokenizer, embeddings, temperature)
    found = [(part.hard.codes.cpu().numpy(), _disagreement(part)) for part in parts]
    codes, differs = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    figures = {"collision_rate": collision_rate(codes), "soft_hard_disagreement": float(differs.mean())}
    bits = entropy_bits(codebook_usage(codes, tokenizer.codebook_size))
    figures |= {f"entropy_level_{level}": float(value) for level, value in enumerate(bits, start=1)}
    if first_codes is not None:
        moved = churn(first_codes, codes)
        figures |= {f"churn_level_{level}": share for level, share in enumerate(moved, start=1)}
        figures["changed_at_most_one_level"] = float(((first_codes != codes).sum(1) <= 1).mean())
    return figures


@torch.no_grad()
def health(
    tokenizer: Tokenizer,
    embeddings: Tensor,
    popularity: np.ndarray,
    temperature: float,
    together: Cooccurring | None = None,
) -> dict:
    """How well the identifiers describe the catalogue, as a flat dictionary of numbers and lists per level.

    Args:
        embeddings: (N, D), on the tokenizer's device. popularity: (N,) training interactions.
        temperature: the one of the joint phase.
        together: what items co-occur with in training, for the hit rates.
    """
    error_soft = error_hard = 0.0
    codes_of, latent_of, quantized_of, differs_of = [], [], [], []
    for part in _quantize(tokenizer, embeddings, temperature):
        error_soft += float((tokenizer.decode(part.soft.quantized) - part.embeddings).square().sum(dtype=torch.float64))
        error_hard += float((tokenizer.decode(part.hard.quantized) - part.embeddings).square().sum(dtype=torch.float64))
        codes_of.append(part.hard.codes.cpu().numpy())
        latent_of.append(part.latent)
        quantized_of.append(part.hard.quantized)
        differs_of.append(_disagreement(part))
    codes, groups = np.concatenate(codes_of), group_of(np.concatenate(codes_of))
    colliding = np.bincount(groups)[groups] > 1
    usage = codebook_usage(codes, tokenizer.codebook_size)
    bits = entropy_bits(usage)
    prefix_sizes = [np.bincount(group_of(codes[:, : level + 1])) for level in range(codes.shape[1])]
    figures = {
        "items": len(codes),
        "collision_rate": float(colliding.mean()),
        "collision_rate_by_popularity": float((colliding * popularity).sum() / max(popularity.sum(), 1)),
        "largest_collision": int(np.bincount(groups).max()),
        "codebook_utilisation": [float(level) for level in (usage > 0).mean(1)],
        "entropy_bits": [float(value) for value in bits],
        "entropy_share": [float(value) for value in bits / np.log2(tokenizer.codebook_size)],
        "gini_of_prefixes": [gini(sizes) for sizes in prefix_sizes],
        "reconstruction_soft": error_soft / embeddings.numel(),
        "reconstruction_hard": error_hard / embeddings.numel(),
        "soft_hard_disagreement": float(np.concatenate(differs_of).mean()),
        "temperature": temperature,
    }
    if together is not None:
        figures |= _hit_rates(embeddings, torch.cat(latent_of), torch.cat(quantized_of), groups, together)
    return figures


def _hit_rates(
    embeddings: Tensor, latent: Tensor, quantized: Tensor, groups: np.ndarray, together: Cooccurring
) -> dict[str, float]:
    """The hit rate where an item is its semantic ID, and before: what the encoder and what quantization lose.

    Args:
        embeddings: (N, D). latent, quantized: (N, C). groups: (N,) as `group_of` numbers the semantic IDs.
    """
    each = np.arange(len(groups))
    first = np.unique(groups, return_index=True)[1]  # an item of each group
    return {
        "hit_rate_items": len(together.items),
        "hit_rate_by_chance": min(HIT_NEAREST / max(len(groups) - 1, 1), 1.0),
        "hit_rate_item_embedding": hit_rate(embeddings, each, together, HIT_NEAREST),
        "hit_rate_latent": hit_rate(latent, each, together, HIT_NEAREST),
        "hit_rate_quantized": hit_rate(quantized[torch.as_tensor(first)], groups, together, HIT_NEAREST),
    }


@torch.no_grad()
def hit_rate(vectors: Tensor, groups: np.ndarray, together: Cooccurring, nearest: int) -> float:
    """Embedding hit rate (FORGE, arXiv 2509.20904): how much of what is bought together lies together.

    The share of an item's co-occurring items that are among its `nearest` items by distance, as a mean over the R items
    of `together`. Items of one group have one vector and hence one distance; where the last place falls among them,
    each counts as much as the places left for them, which is what a fair draw gives.

    R distances to all: time is linear in R * N, memory bounded.

    Args:
        vectors: (G, C), one a group. groups: (N,) the group of each item.
    """
    device = vectors.device
    group, items = torch.as_tensor(groups, device=device), torch.as_tensor(together.items, device=device)
    sizes = torch.bincount(group, minlength=len(vectors))
    closest = min(nearest + 1, len(vectors))  # groups that can matter: none is empty but, to itself, the item's own
    found = 0.0
    for rows in torch.arange(len(items)).split(max(AT_ONCE // len(vectors), 1)):
        own = group[items[rows.to(device)]]  # (r,)
        order = squared_distances(vectors[own], vectors).topk(closest, largest=False).indices  # (r, closest)
        others = sizes[order] - (order == own[:, None]).long()  # an item is no neighbour of its own
        places = nearest - (others.cumsum(1) - others)  # that the groups before it leave
        share = (places / others.clamp_min(1)).clamp(0.0, 1.0)
        neighbours = torch.as_tensor(together.neighbours, device=device)[rows.to(device)]  # (r, n)
        wanted, exists = group[neighbours.clamp_min(0)], neighbours >= 0
        hits = ((wanted[:, :, None] == order[:, None]) * share[:, None]).sum(-1) * exists
        found += float((hits.sum(1) / exists.sum(1)).sum(dtype=torch.float64))
    return found / len(items)
