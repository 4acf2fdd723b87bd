"""`python -m benchmarks.related`: does the item bought next, in the same basket, stand in the list of complements?

Of each test user, the last two items are a held-out pair: only those of one day, where the log's times tell days. The
lists are made from the training part alone. docs/answers.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.quality.steps import Data, finished_rung, load_data
from unigrec.base.errors import UnigrecError
from unigrec.base.markdown import markdown_table
from unigrec.core.retrieval.basket_counts import count_baskets
from unigrec.core.retrieval.cooccurrence import Cooccurrence
from unigrec.core.retrieval.neighbour_ranking import count_neighbours
from unigrec.core.retrieval.related import KIND_LEVELS, complements
from unigrec.core.sequences import Sequences
from unigrec.pipeline.outputs import load_codes

FOUND_AT = 10
Lists = Callable[[int], np.ndarray]  # an item -> items that go with it, best first


class Pairs(NamedTuple):
    """Held-out pairs of one basket."""

    given: np.ndarray  # (P,) the earlier item
    wanted: np.ndarray  # (P,) the later one, another item


def held_out_pairs(sequences: Sequences) -> Pairs:
    users = sequences.evaluation_users()
    last = sequences.offsets[users + 1] - 1
    days = sequences.days()
    kept = sequences.items[last] != sequences.items[last - 1]
    if days is not None:
        kept &= days[last] == days[last - 1]
    return Pairs(sequences.items[last - 1][kept], sequences.items[last][kept])


def rankings(data: Data, codes: np.ndarray) -> dict[str, Lists]:
    """The lists that are compared."""
    baskets, neighbours = count_baskets(data.sequences), count_neighbours(data.sequences, data.embeddings)
    cooccurrence, content = Cooccurrence(data.sequences).nearest, neighbours.content
    one_kind = np.zeros_like(codes)
    one_kind[:] = np.arange(len(codes))[:, None]  # no two items of a kind

    def together(item: int) -> np.ndarray:
        return cooccurrence.indices[cooccurrence.indptr[item] : cooccurrence.indptr[item + 1]][:FOUND_AT]

    def near(item: int) -> np.ndarray:
        scores = (content @ content[item]).numpy()
        scores[item] = -np.inf
        return np.argsort(-scores, kind="stable")[:FOUND_AT]

    def going_with(kinds: np.ndarray) -> Lists:
        return lambda item: complements(baskets, kinds, content, np.array([item]), FOUND_AT).items

    return {
        "complements": going_with(codes),
        "complements, of the same kind too": going_with(one_kind),
        "co-occurrence": together,
        "item vectors": near,
    }


def found_at(lists: Lists, pairs: Pairs) -> np.ndarray:
    """(P,) whether the later item is in the list of the earlier one."""
    by_item = {item: set(lists(item).tolist()) for item in np.unique(pairs.given).tolist()}
    return np.array([wanted in by_item[given] for given, wanted in zip(*map(np.ndarray.tolist, pairs), strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.related", description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True, help="a project's artifacts folder")
    parser.add_argument("rung", type=Path, help="a finished rung of the ladder: OUT/seed-1/M14/KEY")
    options = parser.parse_args()
    try:
        data = load_data(options.artifacts)
        codes = load_codes(finished_rung(options.rung, data))
        pairs = held_out_pairs(data.sequences)
        kind = codes[:, :KIND_LEVELS]
        others = (kind[pairs.given] != kind[pairs.wanted]).any(1)
        print(f"{len(pairs.given)} pairs, {int(others.sum())} of two kinds\n")
        rows = []
        for name, lists in rankings(data, codes).items():
            hits = found_at(lists, pairs)
            rows.append([name, f"{hits.mean():.4f}", f"{hits[others].mean():.4f}"])
        print(markdown_table(["", "pairs found at 10", "of two kinds"], rows))
    except UnigrecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
