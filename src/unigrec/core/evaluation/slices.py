"""Metrics by slice of the users.

Shapes: U test users, N items.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from unigrec.core.evaluation.metrics import ranking_metrics
from unigrec.core.evaluation.protocol import GATED_CUTOFF
from unigrec.core.sequences import Sequences

MOST_VALUES = 20  # of a column, each a slice of its own


def popularity_thirds(train_counts: np.ndarray) -> np.ndarray:
    """(N,) 0, 1 or 2: the third of the catalogue that an item belongs to, by its training interactions."""
    bounds = np.quantile(np.sort(train_counts), [1 / 3, 2 / 3])
    return np.searchsorted(bounds, train_counts, side="left")


def slices(
    sequences: Sequences, users: np.ndarray, columns: Mapping[str, Sequence[Collection[str]]]
) -> dict[str, np.ndarray]:
    """Named (U,) masks over test users: popularity tercile of the target, history length, cold targets, same day.

    columns: the values of each item, N per column. A target with several values is in several slices.

    What goes into a basket and what comes at the next visit are two questions: where times tell, targets on the day of
    the item before are a slice, and the others too.
    """
    test = sequences.held_out(users, "test", 1)
    counts = sequences.train_counts()
    popularity = counts[test.targets]
    history = sequences.lengths[users] - 1
    third = popularity_thirds(counts)[test.targets]
    found = {
        "target popularity: lowest third of items": third == 0,
        "target popularity: middle third of items": third == 1,
        "target popularity: highest third of items": third == 2,
        "history: up to 5 items": history <= 5,
        "history: 6 to 10 items": (history > 5) & (history <= 10),
        "history: more than 10 items": history > 10,
        "cold target: fewer than 5 training interactions": popularity < 5,
        "cold target: unseen in training": popularity == 0,
    }
    days = sequences.days()
    if days is not None:
        last = sequences.offsets[users + 1] - 1
        same = days[last] == days[last - 1]
        if not same.all():  # some data sets have numbers of order as timestamps
            found |= {"target on the day of the item before": same, "target on a later day": ~same}
    for name, values in columns.items():
        found |= _slices_of_column(name, [values[target] for target in test.targets.tolist()])
    return found


def _slices_of_column(name: str, values: Sequence[Collection[str]]) -> Iterator[tuple[str, np.ndarray]]:
    """Slices by the values of the users' targets: the most frequent ones, all others together, and no value."""
    counts = Counter(value for of_target in values for value in of_target)
    most = sorted(counts, key=lambda value: (-counts[value], value))[:MOST_VALUES]
    for value in most:
        yield f"target {name}: {value}", np.array([value in of_target for of_target in values])
    rest = [bool(of_target) and not any(value in of_target for value in most) for of_target in values]
    yield f"target {name}, other", np.array(rest)
    yield f"target {name}, no value", np.array([not of_target for of_target in values])


def metrics_by_slice(ranks: dict[tuple[str, str], np.ndarray], masks: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Recall and NDCG at the gated cutoff, per slice that has a user: rows, from ranks (U,) and masks (U,)."""
    return [
        {"slice": name, "users": int(mask.sum()), "model": model, "protocol": protocol}
        | ranking_metrics(found[mask], [GATED_CUTOFF])
        for (model, protocol), found in ranks.items()
        for name, mask in masks.items()
        if mask.any()
    ]
