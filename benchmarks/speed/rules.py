"""What a rule of a request costs: the same histories with and without it, in one process, rule after rule."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.growth import histories, make_bundle
from benchmarks.speed.harness import Options, Table, in_child, say
from benchmarks.speed.served import UNTRAINED, item_id
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.serving.bundle import Bundle
from unigrec.serving.schema import Diversity, NewShare

SIZES, QUICK_SIZES = (10_000, 1_000_000), (400,)
REQUESTS, WARM_UP, QUICK_REQUESTS = 40, 4, 2
PLAIN = "no rule"
RULES: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "a filter that half of the items pass": {"filter": "price < 50"},
    "a filter that one item in a hundred passes": {"filter": "price < 1"},
    "1 per brand": {"diversity": Diversity(per="brand", at_most=1)},
    "1 per first code": {"diversity": Diversity(per="first code", at_most=1)},
    "at least 3 younger than 30 days": {"new_share": NewShare(days=30, at_least=3)},
    "a boost of half of the items": {"boost": {"price < 50": 0.3}},
}


def run(options: Options) -> list[Table]:
    sizes, count = (QUICK_SIZES, QUICK_REQUESTS) if options.quick else (SIZES, REQUESTS)
    return [_table(items, by, count, options.quick) for items in sizes for by in (RankBy.GENERATIVE, RankBy.FUSED)]


def _table(items: int, by: RankBy, count: int, quick: bool) -> Table:
    with tempfile.TemporaryDirectory() as temporary:
        folder, _ = in_child(make_bundle, folder=temporary, items=items, quick=quick)
        found, _ = in_child(measure, folder=folder, by=by, count=count)
    rows = []
    for rule, seconds in found["seconds"].items():
        times = float(np.median(seconds) / np.median(found["seconds"][PLAIN]))
        first = found["first"][rule]
        rows.append({"request": rule, "CPU ms": 1e3 * float(np.median(seconds)), "times no rule": times})
        rows[-1] |= {"the first, ms": 1e3 * first}
        say(f"rules: {items} items, {by}: {rule}: {times:.2f} times")
    notes = [
        UNTRAINED,
        f"The paper's network, {count} histories per rule, k = 10, one thread, medians. The first request with a rule "
        "reads its columns and compiles it.",
    ]
    return Table(f"{items} items, ranked by {by}", rows, notes)


def measure(folder: str, by: str, count: int) -> dict[str, Any]:
    """CPU seconds of every request per rule, and those of its first. Runs in its own process."""
    bundle = Bundle.load(Path(folder))
    items, lengths = histories(count + WARM_UP, len(bundle.item_ids), 0)
    asked = [[item_id(item) for item in row[:length]] for row, length in zip(items, lengths, strict=True)]
    seconds: dict[str, list[float]] = {rule: [] for rule in RULES}
    for history in asked:
        for rule, settings in RULES.items():
            began = time.process_time()
            (answer,) = bundle.recommend([history], k=10, rank_by=RankBy(by), **settings)
            seconds[rule].append(time.process_time() - began)
            assert len(answer.items) == 10 or len(bundle.item_ids) < 1000
    return {
        "first": {rule: taken[0] for rule, taken in seconds.items()},
        "seconds": {rule: taken[WARM_UP:] for rule, taken in seconds.items()},
    }
