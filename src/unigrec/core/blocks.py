"""Passes over large arrays in blocks, so that no copy of the whole is made.

Shapes: N rows of width D.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

AT_ONCE = 2**22  # numbers of a block


def row_blocks(rows: Tensor) -> Iterator[Tensor]:
    """Consecutive rows (n, D) of (N, D)."""
    yield from rows.split(_at_once(rows))


def _at_once(rows: Tensor) -> int:
    return max(AT_ONCE // max(rows.shape[1], 1), 1)


def all_finite(values: Tensor) -> bool:
    """Whether no number is infinite or not a number, of a tensor of any shape and a type with or without a point."""
    if not values.is_floating_point() or not values.numel():
        return True
    flat = values.reshape(-1)
    if values.dtype == torch.float16:  # the largest exponent stands for both; to compare integers is fast
        return all(int((block & 0x7FFF).max()) < 0x7C00 for block in flat.view(torch.int16).split(AT_ONCE))
    extremes = (torch.stack(block.aminmax()) for block in flat.split(AT_ONCE))  # NaN is the least and the largest
    return all(bool(extreme.isfinite().all()) for extreme in extremes)


def are_starts(starts: Tensor, ranges: int, end: int) -> bool:
    """Whether these (ranges + 1,) whole numbers are the starts of ranges that follow each other from 0, and the end."""
    if len(starts) != ranges + 1 or starts[0] != 0 or starts[-1] != end:
        return False
    # Of numbers below 0 and large ones, a difference may be beyond 64 bits, and look like one above 0.
    return bool(starts.min() >= 0 and (starts.diff() >= 0).all())


def products(rows: Tensor, query: Tensor, wanted: Tensor | None = None) -> Tensor:
    """(N,) of each row (N, D), of any type with a point, with a query (D,) float32.

    wanted: (M,) numbers of the only rows that are asked for -> (M,).
    """
    if wanted is not None:
        return torch.cat([rows[some].to(query.dtype) @ query for some in wanted.split(_at_once(rows))])
    if rows.dtype == query.dtype:
        return rows @ query
    return torch.cat([block.to(query.dtype) @ query for block in row_blocks(rows)])
