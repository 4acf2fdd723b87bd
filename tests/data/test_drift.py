"""What two snapshots differ in, by hand."""

import math

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from unigrec.data.drift import Drift, measure_drift, popularity_shift


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


def shop(users: range, items: range, texts: bool = True, form=str) -> tuple[pa.Table, pa.Table]:
    """Each user takes each item."""
    pairs = [(form(user), form(item)) for user in users for item in items]
    titles = pa.array([f"about {item}" if texts else None for item in items], pa.string())
    log = pa.table({"user_id": [user for user, _ in pairs], "item_id": [item for _, item in pairs]})
    return log, pa.table({"item_id": [form(item) for item in items], "title": titles})


def union(before: tuple[pa.Table, pa.Table], delivery: tuple[pa.Table, pa.Table]) -> tuple[pa.Table, pa.Table]:
    known = pc.is_in(before[1]["item_id"], value_set=delivery[1]["item_id"].combine_chunks())
    items = pa.concat_tables([before[1].filter(pc.invert(known)), delivery[1]])
    return pa.concat_tables([before[0], delivery[0]]), items


def appended(before, delivery):
    return measure_drift(before, union(before, delivery), ["title"], appended=delivery)


def test_in_append_mode_what_is_new_is_a_share_of_the_delivery():
    before = shop(range(1000), range(100))
    usual = appended(before, shop(range(950, 1010), range(50, 110)))
    assert (usual.new_users_count, usual.new_users_of, usual.new_users) == (10, 60, pytest.approx(1 / 6))
    assert (usual.new_items_count, usual.new_items_of, usual.new_items) == (10, 60, pytest.approx(1 / 6))
    assert (usual.lost_users, usual.lost_items, usual.text_coverage_drop) == (0.0, 0.0, 0.0)
    reformatted = appended(before, shop(range(60), range(60), form=lambda number: f"x{number}"))
    assert (reformatted.new_users, reformatted.new_items) == (1.0, 1.0)


def test_new_items_of_a_delivery_are_those_of_its_interactions_for_its_catalogue_may_list_new_ones_alone():
    before = shop(range(60), range(100))
    log, items = shop(range(60), range(101))
    assert appended(before, (log, items.slice(100))).new_items == pytest.approx(1 / 101)


def test_of_a_delivery_too_small_for_shares_the_whole_counts():
    drift = appended(shop(range(1000), range(100)), shop(range(1000, 1010), range(100, 110)))
    assert (drift.new_users, drift.new_items) == (pytest.approx(10 / 1010), pytest.approx(10 / 110))


def test_texts_that_a_small_delivery_empties_are_noticed():
    before = shop(range(60), range(1000))
    assert appended(before, shop(range(60), range(60), texts=False)).text_coverage_drop == 1.0
    new_ones_without = appended(before, shop(range(60), range(1000, 1060), texts=False))
    assert new_ones_without.text_coverage_drop == pytest.approx(60 / 1060)
    assert appended(before, shop(range(60), range(20), texts=False)).text_coverage_drop == pytest.approx(20 / 1000)


def test_the_figures_of_an_earlier_lineage_are_read():
    tables = shop(range(60), range(20))
    figures = measure_drift(tables, tables, ["title"])._asdict()
    del figures["new_users_of"], figures["new_items_of"]
    assert Drift.of_lineage(figures) == measure_drift(tables, tables, ["title"])


def test_popularity_shift_is_the_jensen_shannon_divergence():
    assert popularity_shift(column("a", "b", "a", "b"), column("b", "a")) == 0.0
    assert popularity_shift(column("a", "a"), column("b", "c")) == 1.0
    p, q = {"a": 0.75, "b": 0.25}, {"a": 0.25, "b": 0.75}
    middle = 0.5
    expected = sum(share * math.log2(share / middle) for share in (*p.values(), *q.values())) / 2
    assert popularity_shift(column("a", "a", "b", "a"), column("b", None, "b", "a", "b")) == pytest.approx(expected)
