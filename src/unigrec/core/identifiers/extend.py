"""Identifiers for items that come after the training. Published identifiers never move.

Shapes: M new items, N items with an identifier, D numbers per item vector, L levels, T codes of an identifier.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from unigrec.base.errors import UnigrecError
from unigrec.core.identifiers.collisions import group_of, hard_codes, last_level_distances
from unigrec.core.models.tokenizers.kmeans import squared_distances
from unigrec.core.models.tokenizers.residual import Tokenizer


@torch.no_grad()
def free_identifiers(tokenizer: Tokenizer, vectors: Tensor, taken: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """(M, T) identifiers that nobody has, for the vectors (M, D) that the tokenizer reads.

    Codes are assigned by hard residuals, level by level; where all identifiers below a code are taken, the next nearest
    code is chosen, so that the shared prefix stays as long as it can. The last code is a free one: at minimum total
    distance of all new items below a prefix, or, if it tells colliding items apart, the lowest.

    Args:
        taken: (N, T) identifiers of the other items. sizes: (T,) number of codes of each position.

    Raises:
        UnigrecError: there are fewer free identifiers than items.
    """
    if len(vectors) > np.prod(sizes, dtype=np.float64) - len(taken):
        raise UnigrecError(f"{len(vectors)} new items, but only {int(np.prod(sizes)) - len(taken)} free identifiers")
    prefixes = _with_room(tokenizer, vectors, taken, sizes)
    order, last = np.argsort(group_of(prefixes), kind="stable"), np.zeros(len(prefixes), np.int64)
    ends = np.flatnonzero((np.diff(prefixes[order], axis=0) != 0).any(1)) + 1
    used: dict[tuple[int, ...], list[int]] = {}
    for row in taken.tolist():
        used.setdefault(tuple(row[:-1]), []).append(row[-1])
    by_distance = len(sizes) == tokenizer.levels
    for members in np.split(order, ends) if len(order) else []:
        free = np.setdiff1d(np.arange(sizes[-1]), used.get(tuple(prefixes[members[0]].tolist()), []))
        if by_distance:
            cost = last_level_distances(tokenizer, vectors[torch.as_tensor(members)], prefixes[members])[:, free]
            last[members] = free[linear_sum_assignment(cost)[1]]
        else:
            last[members] = free[: len(members)]
    return np.column_stack([prefixes, last])


def _with_room(tokenizer: Tokenizer, vectors: Tensor, taken: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """(M, T - 1) all codes but the last, so that each item finds a free one below them."""
    depth = len(sizes) - 1
    room = [int(np.prod(sizes[level:], dtype=object)) for level in range(1, depth + 1)]  # identifiers below a prefix
    counts: Counter[tuple[int, ...]] = Counter()
    for row in taken[:, :depth].tolist():
        counts.update(tuple(row[:level]) for level in range(1, depth + 1))
    codes = hard_codes(tokenizer, vectors)[:, :depth]
    for item, wanted in enumerate(codes.tolist()):
        prefix = tuple(wanted)
        if any(counts[prefix[:level]] >= room[level - 1] for level in range(1, depth + 1)):
            prefix = _nearest_with_room(tokenizer, vectors[item : item + 1], counts, room)
            codes[item] = prefix
        counts.update(prefix[:level] for level in range(1, depth + 1))
    return codes


def _nearest_with_room(
    tokenizer: Tokenizer, vector: Tensor, counts: Counter[tuple[int, ...]], room: Sequence[int]
) -> tuple[int, ...]:
    """The prefix of one item (1, D): at each level the nearest code with a free identifier below it."""
    residual, prefix = tokenizer.encoder(vector), tuple[int, ...]()
    for level, below in enumerate(room):
        nearest = squared_distances(residual, tokenizer.codebooks[level])[0].argsort(stable=True).tolist()
        code = next(code for code in nearest if counts[(*prefix, code)] < below)
        residual, prefix = residual - tokenizer.codebooks[level][code], (*prefix, code)
    return prefix
