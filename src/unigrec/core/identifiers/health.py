"""Figures on the health of the identifiers.

Shapes: N items, D numbers per embedding, C code dimension, L levels, K codewords, R items with known neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.core.identifiers.churn import churn
from unigrec.core.identifiers.collisions import AT_ONCE, collision_rate, group_of, items_at_once
from unigrec.core.models.tokenizers.kmeans import squared_distances
from unigrec.core.models.tokenizers.residual import ITEMS_AT_ONCE, HardCodes, SoftCodes, Tokenizer
from unigrec.core.models.vectors import Vectors, columns

if TYPE_CHECKING:
    from unigrec.core.retrieval.cooccurrence import Cooccurring

HIT_NEIGHBOURS = 10  # co-occurring items that the hit rate looks for ...
HIT_NEAREST = 100  # ... among this many nearest items ...
HIT_SAMPLE = 4096  # ... for this many items of a larger catalogue


class Quantized(NamedTuple):
    """A part of the catalogue, soft and hard."""

    embeddings: Tensor  # (n, D)
    latent: Tensor  # (n, C)
    soft: SoftCodes
    hard: HardCodes


@torch.no_grad()
def _quantize(tokenizer: Tokenizer, embeddings: Vectors, temperature: float) -> Iterator[Quantized]:
    """The catalogue in parts, so that the memory of a pass does not grow with N."""
    tokenizer.eval()
    for chunk in embeddings.split(items_at_once(tokenizer)):
        latent = tokenizer.encoder(chunk)
        yield Quantized(chunk, latent, tokenizer.quantize_soft(latent, temperature), tokenizer.quantize_hard(latent))


def _disagreement(part: Quantized) -> np.ndarray:
    """(n,) whether an item's most probable soft codes differ from its hard ones at any level."""
    return (part.soft.probabilities.argmax(-1) != part.hard.codes).any(1).cpu().numpy()


def codebook_usage(codes: np.ndarray, size: int) -> np.ndarray:
    """Share of items on each codeword: (N, L) -> (L, K)."""
    return np.stack([np.bincount(level, minlength=size) / len(codes) for level in codes.T])


def entropy_bits(usage: np.ndarray) -> np.ndarray:
    """Entropy in bits of shares: (..., K) -> (...)."""
    safe = np.where(usage > 0, usage, 1.0)
    return -(usage * np.log2(safe)).sum(-1)


def entropy_given_prefix(codes: np.ndarray) -> list[float]:
    """Entropy in bits of the codes of each level, given the codes before it: (N, L) -> L numbers.

    They add up to the entropy of the whole identifiers. Near 0: the prefix tells the code, which then says nothing new.
    """
    whole = [_entropy_of(np.bincount(group_of(codes[:, : level + 1]))) for level in range(codes.shape[1])]
    return np.diff([0.0, *whole]).tolist()


def _entropy_of(counts: np.ndarray) -> float:
    return float(entropy_bits(counts / counts.sum()))


def code_overlap(codes: np.ndarray, histories: np.ndarray, lengths: np.ndarray, targets: np.ndarray) -> list[float]:
    """Share of targets whose first 1, 2, ... L codes an item of their history has too: what a prefix tree can reuse.

    Args:
        codes: (N, L). histories: (B, n) items, padded on the right by lengths (B,). targets: (B,).
    """
    exists = np.arange(histories.shape[1]) < lengths[:, None]
    same = (codes[histories] == codes[targets][:, None]).cumprod(-1).astype(bool) & exists[..., None]  # (B, n, L)
    return same.any(1).mean(0).tolist()


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of non-negative counts: 0 if all are equal."""
    ordered = np.sort(counts.astype(np.float64))
    ranks = np.arange(1, len(ordered) + 1)
    return float((2 * ranks - len(ordered) - 1) @ ordered / (len(ordered) * ordered.sum()))


def identifier_curve(
    tokenizer: Tokenizer, embeddings: Vectors, temperature: float, first_codes: np.ndarray | None = None
) -> dict[str, float]:
    """A few figures on today's identifiers, for a row of a training's history; one pass over the catalogue.

    Args:
        embeddings: (N, D), on the tokenizer's device. temperature: of the soft codes.
        first_codes: (N, L) earlier hard codes to compare with.

    Returns:
        `collision_rate`, `soft_hard_disagreement` (share of items whose soft and hard codes differ), and per level the
        entropy in bits, `entropy_level_1` ... With `first_codes` also `churn_level_1` ..., and
        `changed_at_most_one_level`: the share of items that kept at least all but one of their first codes.
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
    embeddings: Vectors,
    popularity: np.ndarray,
    temperature: float,
    cooccurring: Cooccurring | None = None,
    widths: Sequence[int] = (),
) -> dict:
    """How well the identifiers describe the catalogue: a flat dictionary of numbers, and of lists per level.

    Args:
        embeddings: (N, D), on the tokenizer's device. popularity: (N,) training interactions.
        temperature: of the joint phase.
        cooccurring: items that co-occur in training, for the hit rates.
        widths: of the modalities, which are the first numbers of the embeddings. With several, each has a hit rate.
    """
    error_soft = error_hard = 0.0
    # Arrays that are filled part by part: a list of parts and their concatenation would hold everything twice.
    codes, differs = np.empty((len(embeddings), tokenizer.levels), np.int64), np.empty(len(embeddings), bool)
    latent = tokenizer.codebooks.new_empty(
        len(embeddings) if cooccurring is not None else 0, tokenizer.codebooks.shape[2]
    )
    done = 0
    for part in _quantize(tokenizer, embeddings, temperature):
        error_soft += float((tokenizer.decode(part.soft.quantized) - part.embeddings).square().sum(dtype=torch.float64))
        error_hard += float((tokenizer.decode(part.hard.quantized) - part.embeddings).square().sum(dtype=torch.float64))
        rows = slice(done, done + len(part.latent))
        codes[rows], differs[rows] = part.hard.codes.cpu().numpy(), _disagreement(part)
        if cooccurring is not None:
            latent[rows] = part.latent
        done = rows.stop
    groups = group_of(codes)
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
        "entropy_given_prefix_bits": entropy_given_prefix(codes),
        "gini_of_prefixes": [gini(sizes) for sizes in prefix_sizes],
        "reconstruction_soft": error_soft / embeddings.numel(),
        "reconstruction_hard": error_hard / embeddings.numel(),
        "soft_hard_disagreement": float(differs.mean()),
        "temperature": temperature,
    }
    if cooccurring is not None:
        figures |= _hit_rates(tokenizer, embeddings, latent, codes, groups, cooccurring)
        if len(widths) > 1:
            each, parts = np.arange(len(codes)), columns(embeddings, sum(widths)).split(list(widths), dim=1)
            figures["hit_rate_modalities"] = [hit_rate(part, each, cooccurring, HIT_NEAREST) for part in parts]
    return figures


def _hit_rates(
    tokenizer: Tokenizer,
    embeddings: Vectors,
    latent: Tensor,
    codes: np.ndarray,
    groups: np.ndarray,
    cooccurring: Cooccurring,
) -> dict[str, float]:
    """Hit rates of the semantic IDs, and of what precedes them, to show what the encoder and what quantization loses.

    Args:
        embeddings: (N, D). latent: (N, C). codes: (N, L). groups: (N,) as `group_of` numbers the semantic IDs.
    """
    each = np.arange(len(groups))
    first = np.unique(groups, return_index=True)[1]  # one item of each group
    quantized = latent.new_zeros(len(first), latent.shape[1])
    for level, codebook in enumerate(tokenizer.codebooks):
        quantized += codebook[torch.as_tensor(codes[first, level], device=codebook.device)]
    return {
        "hit_rate_items": len(cooccurring.items),
        "hit_rate_by_chance": min(HIT_NEAREST / max(len(groups) - 1, 1), 1.0),
        "hit_rate_item_embedding": hit_rate(embeddings, each, cooccurring, HIT_NEAREST),
        "hit_rate_latent": hit_rate(latent, each, cooccurring, HIT_NEAREST),
        "hit_rate_quantized": hit_rate(quantized, groups, cooccurring, HIT_NEAREST),
    }


@torch.no_grad()
def hit_rate(vectors: Vectors, groups: np.ndarray, cooccurring: Cooccurring, nearest: int) -> float:
    """Embedding hit rate (FORGE, arXiv 2509.20904): do items that are bought together lie close together?

    The share of an item's co-occurring items that are among its `nearest` items by distance, as a mean over the R items
    of `cooccurring`. Items of one group have one vector and hence one distance. If the last places fall within a group,
    they are shared equally among its items, as a fair draw does on average.

    Time is linear in R * N, memory is that of R * `nearest` distances and of a block.

    Args:
        vectors: (G, C), one per group. groups: (N,) the group of each item.
    """
    device = vectors.device
    group, items = torch.as_tensor(groups, device=device), torch.as_tensor(cooccurring.items, device=device)
    sizes = torch.bincount(group, minlength=len(vectors))
    closest = min(nearest + 1, len(vectors))  # groups that can matter: only the item's own may hold no other item
    found = 0.0
    size = max(AT_ONCE // min(len(vectors), ITEMS_AT_ONCE), 1)
    ordered = _nearest_vectors(vectors, group[items], closest, size)
    for rows, order in zip(torch.arange(len(items)).split(size), ordered.split(size), strict=True):
        own = group[items[rows.to(device)]]  # (r,)
        others = sizes[order] - (order == own[:, None]).long()  # an item is not its own neighbour
        places = nearest - (others.cumsum(1) - others)  # left by the groups before it
        share = (places / others.clamp_min(1)).clamp(0.0, 1.0)
        neighbours = torch.as_tensor(cooccurring.neighbours, device=device)[rows.to(device)]  # (r, n)
        wanted, exists = group[neighbours.clamp_min(0)], neighbours >= 0
        hits = ((wanted[:, :, None] == order[:, None]) * share[:, None]).sum(-1) * exists
        found += float((hits.sum(1) / exists.sum(1)).sum(dtype=torch.float64))
    return found / len(items)


def _nearest_vectors(vectors: Vectors, own: Tensor, count: int, size: int) -> Tensor:
    """The `count` vectors (G, C) that are nearest to some of them (R,), by distance: (R, count) numbers.

    size: rows at a time. Blocks of vectors are read one after the other, each once.
    """
    best = torch.empty(len(own), 0, device=vectors.device)
    numbers = best.long()
    for start in range(0, len(vectors), ITEMS_AT_ONCE):
        block = vectors[start : start + ITEMS_AT_ONCE]
        width = min(count, len(block))
        # Filled piece by piece: a list of small results between large ones would leave holes in the heap.
        values = block.new_empty(len(own), width)
        indices = torch.empty(len(own), width, dtype=torch.int64, device=block.device)
        for begin in range(0, len(own), size):
            rows = slice(begin, begin + size)
            near = squared_distances(vectors[own[rows]], block).topk(width, largest=False)
            values[rows], indices[rows] = near.values, near.indices + start
        best, numbers = torch.cat([best, values], dim=1), torch.cat([numbers, indices], dim=1)
        if best.shape[1] > count:
            best, order = best.topk(count, largest=False)
            numbers = numbers.gather(1, order)
    return numbers
