"""Pairs in baskets against plain counting, and planted printers and ink."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.small import few, sequences_of
from unigrec.core.retrieval import basket_counts as module
from unigrec.core.retrieval import baskets
from unigrec.core.retrieval.basket_counts import count_baskets
from unigrec.core.sequences import SECONDS_PER_DAY, Sequences

DAY = SECONDS_PER_DAY


def log_of(seed: int, users: int = 30, items: int = 12) -> Sequences:
    """Users with 1 to 14 interactions on one to four days. Items repeat, also within a day."""
    generator = np.random.default_rng(seed)
    sequences = sequences_of(
        *(generator.integers(0, items, generator.integers(1, 15)).tolist() for _ in range(users)), items=items
    )
    days = [np.sort(generator.integers(0, 4, length)) for length in sequences.lengths]
    return sequences._replace(timestamps=np.concatenate(days) * DAY + generator.integers(0, DAY))


def counted(sequences: Sequences, by_day: bool) -> tuple[list[frozenset[int]], Counter]:
    """The baskets of at least two items, and the pairs in them."""
    found: dict[tuple[int, int], set[int]] = {}
    for user, (start, end) in enumerate(zip(sequences.offsets[:-1], sequences.train_ends, strict=True)):
        for place in range(start, end):
            day = int(sequences.timestamps[place] // DAY) if by_day else 0
            found.setdefault((user, day), set()).add(int(sequences.items[place]))
    baskets = [frozenset(basket) for basket in found.values() if len(basket) > 1]
    return baskets, Counter(pair for basket in baskets for pair in itertools.permutations(basket, 2))


@few
@given(st.integers(0, 10_000), st.integers(1, 300))
def test_pairs_and_lifts_are_those_of_plain_counting_whatever_the_block(seed: int, at_once: int):
    sequences = log_of(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAIRS_AT_ONCE", at_once)
        patch.setattr(baskets, "SHRINKAGE", 1.0)
        assert_counted(count_baskets(sequences), sequences)


def assert_counted(found, sequences: Sequences) -> None:
    filled, pairs = counted(sequences, by_day=True)
    assert (found.total, found.by_day) == (len(filled), True)
    times = Counter(item for basket in filled for item in basket)
    assert found.item_counts.tolist() == [times[item] for item in range(12)]
    for item in range(12):
        others, counts, lifts = found.pairs(item)
        expected = {}
        for other in range(12):
            count = pairs[item, other]
            if count:
                value = math.log(count * len(filled) / (times[item] * times[other])) - baskets.SHRINKAGE / math.sqrt(
                    count
                )
                if value > 0:
                    expected[other] = (count, pytest.approx(value))
        assert dict(zip(others.tolist(), zip(counts.tolist(), lifts.tolist(), strict=True), strict=True)) == expected
        assert (np.diff(lifts) <= 0).all()


@pytest.mark.parametrize("timestamps", ["none", "numbers of order", "one per user"])
def test_without_days_a_basket_is_all_that_a_user_bought(timestamps: str):
    sequences = log_of(1)
    times = {
        "none": None,
        "numbers of order": np.concatenate([np.arange(length) for length in sequences.lengths]),
        "one per user": np.repeat(np.arange(30) * DAY, sequences.lengths),
    }[timestamps]
    found = count_baskets(sequences._replace(timestamps=times))
    filled, _ = counted(sequences, by_day=False)
    assert (found.total, found.by_day) == (len(filled), False)


def test_held_out_items_are_not_counted():
    sequences = sequences_of([0, 1, 2, 3], [0, 1, 2, 3], items=4)
    assert count_baskets(sequences).item_counts.tolist() == [2, 2, 0, 0]


def test_a_view_on_the_day_of_a_purchase_is_no_part_of_the_basket():
    sequences = sequences_of([0, 1, 2, 3, 0], items=4)
    weights = np.array([0.2, 1.0, 1.0, 1.0, 1.0], np.float32)
    found = count_baskets(sequences._replace(timestamps=np.zeros(5, np.int64), weights=weights))
    assert found.item_counts.tolist() == [0, 1, 1, 0]


def test_a_log_without_a_basket_has_no_pairs():
    found = count_baskets(sequences_of([0], [1], items=2))
    assert (found.total, len(found.items), found.starts.tolist()) == (0, 0, [0, 0, 0])


def test_a_stock_order_counts_for_nothing(monkeypatch):
    monkeypatch.setattr(module, "LARGEST_BASKET", 3)
    sequences = sequences_of([0, 1, 2, 3, 0, 0], [0, 1, 3, 3], [0, 1, 3, 3], items=4)
    assert count_baskets(sequences).item_counts.tolist() == [2, 2, 0, 0]
