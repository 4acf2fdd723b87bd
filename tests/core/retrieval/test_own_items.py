"""How often histories hold items, and which they hold most often."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from support.small import few
from unigrec.core.retrieval.own_items import OwnItems
from unigrec.core.sequences import pad_rows

ITEMS = 6
histories = st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=9), min_size=1, max_size=4)


def own_items(rows: list[list[int]]) -> OwnItems:
    items, lengths = pad_rows(rows, fill=3)  # padding is an item, which does not count
    return OwnItems(torch.as_tensor(items), torch.as_tensor(lengths))


@few
@given(histories)
def test_counts_are_those_of_each_history_without_its_padding(rows):
    asked = torch.arange(ITEMS).expand(len(rows), -1)
    own = own_items(rows)
    assert own.counts(asked).tolist() == [[Counter(row)[item] for item in range(ITEMS)] for row in rows]
    assert own.strength(asked).exp().round().tolist() == (own.counts(asked) + 1).tolist()


@few
@given(histories, st.integers(1, 7), st.sets(st.integers(0, ITEMS - 1)))
def test_the_most_frequent_come_first_and_of_equal_counts_the_later_one(rows, count, forbidden):
    denied = torch.tensor(sorted(forbidden), dtype=torch.int64)
    found = own_items(rows).most_frequent(count, lambda items: ~torch.isin(items, denied))
    for row, items in zip(rows, found.tolist(), strict=True):
        last = {item: place for place, item in enumerate(row)}
        expected = sorted(set(row) - forbidden, key=lambda item: (-Counter(row)[item], -last[item]))[:count]
        assert [item for item in items if item >= 0] == expected


@few
@given(histories, st.lists(st.integers(-1, ITEMS - 1), min_size=1, max_size=8))
def test_own_items_come_last_and_all_keep_their_order(rows, asked):
    own = own_items(rows)
    assert own.among(ITEMS).tolist() == [[item in row for item in range(ITEMS)] for row in rows]
    found = own.last(torch.tensor(asked).expand(len(rows), -1))
    for row, items in zip(rows, found.tolist(), strict=True):
        assert items == sorted(asked, key=lambda item: 2 if item < 0 else int(item in row))
        allowed = own.others(lambda items: items != 2)(torch.tensor(asked).clamp_min(0).expand(len(rows), -1))
    assert allowed[-1].tolist() == [max(item, 0) not in rows[-1] and item != 2 for item in asked]
