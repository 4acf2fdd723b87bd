"""What two snapshots differ in, by hand."""

import math

import pyarrow as pa
import pytest

from unigrec.data.drift import measure_drift, popularity_shift


def column(*ids) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(ids, pa.string())])


def test_figures_by_hand():
    before = (
        pa.table({"user_id": ["u", "u", "v", "w"], "item_id": ["a", "b", "a", "a"]}),
        pa.table({"item_id": ["a", "b", "c", "d"], "title": ["A", None, "C", "D"], "brand": [None, "B", None, None]}),
    )
    now = (
        pa.table({"user_id": ["u", "v", "x"], "item_id": ["a", "b", "e"]}),
        pa.table({"item_id": ["a", "b", "e"], "title": ["A", None, None]}),
    )
    drift = measure_drift(before, now, ["title", "brand"])
    assert (drift.interactions_before, drift.interactions, drift.growth, drift.shrinkage) == (4, 3, 0.0, 0.25)
    assert (drift.users_before, drift.users, drift.new_users_count, drift.lost_users_count) == (3, 3, 1, 1)
    assert (drift.items_before, drift.items, drift.new_items_count, drift.lost_items_count) == (4, 3, 1, 2)
    assert drift.new_items == pytest.approx(1 / 3)
    assert drift.lost_items == 0.5
    assert (drift.text_coverage_before, drift.text_coverage) == (1.0, pytest.approx(1 / 3))
    assert drift.text_coverage_drop == pytest.approx(2 / 3)
    assert measure_drift(now, before, ["title"]).growth == pytest.approx(1 / 3)


def test_popularity_shift_is_the_jensen_shannon_divergence():
    assert popularity_shift(column("a", "b", "a", "b"), column("b", "a")) == 0.0
    assert popularity_shift(column("a", "a"), column("b", "c")) == 1.0
    p, q = {"a": 0.75, "b": 0.25}, {"a": 0.25, "b": 0.75}
    middle = 0.5
    expected = sum(share * math.log2(share / middle) for share in (*p.values(), *q.values())) / 2
    assert popularity_shift(column("a", "a", "b", "a"), column("b", None, "b", "a", "b")) == pytest.approx(expected)
