"""Queries made from the catalogue, with the histories before the items that they are made of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from torch import Tensor

from unigrec.core.sequences import Sequences
from unigrec.pipeline.queries import QueryKind, make_query
from unigrec.serving.search import QueryEncoder

FOUND_AT = 10
LONGEST = 50  # items of a history


class Cases(NamedTuple):
    """Queries of one kind."""

    histories: list[list[int]]
    wanted: list[int]
    queries: list[str]
    vectors: list[Tensor | None]  # (D,) of length 1; None for a query without a known word

    def recall(self, lists: list[list[int]]) -> float:
        """Share of the cases whose wanted item is among the first of its list."""
        return float(np.mean([item in found[:FOUND_AT] for item, found in zip(self.wanted, lists, strict=True)]))


def cases_of(
    sequences: Sequences, texts: pa.Table, encoder: QueryEncoder, which: str, users: np.ndarray, kind: QueryKind
) -> Cases | None:
    """A case per user whose held-out item has what the kind of query needs; None if there is none.

    Args:
        texts: text columns of the catalogue. which: validation or test.
    """
    held_out, generator = sequences.held_out(users, which, LONGEST), np.random.default_rng(1)
    found: dict[int, str] = {}
    for row, item in enumerate(held_out.targets.tolist()):
        (columns,) = texts.slice(item, 1).to_pylist()
        if (query := make_query(kind, columns, generator)) is not None:
            found[row] = query
    if not found:
        return None
    return Cases(
        [held_out.items[row, : held_out.lengths[row]].tolist() for row in found],
        held_out.targets[list(found)].tolist(),
        list(found.values()),
        [encoder.vector(query) for query in found.values()],
    )
