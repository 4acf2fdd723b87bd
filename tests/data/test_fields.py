"""Fields of items as classes: which values count, and which columns are refused or ignored."""

from __future__ import annotations

import pyarrow as pa
import pytest

from unigrec.base.errors import UnigrecError
from unigrec.data.fields import MIN_ITEMS, item_fields


def catalogue(**columns: list[str | None]) -> pa.Table:
    count = len(next(iter(columns.values())))
    ids = {"item_index": pa.array(range(count), pa.int32()), "item_id": [f"i{item}" for item in range(count)]}
    return pa.table({**ids, **columns, "train_count": pa.array([1] * count, pa.int32())})


def members(column: list[str | None]) -> set[frozenset[int]]:
    """The items of each class."""
    (classes,) = item_fields(catalogue(field=column), ["field"]).classes
    return {frozenset((classes == number).any(1).nonzero()[0].tolist()) for number in range(classes.max() + 1)}


def test_a_value_of_some_items_is_a_class_and_rare_values_and_nulls_are_none():
    rare: list[str | None] = ["rare"] * (MIN_ITEMS - 1)
    column = ["a", "b"] * MIN_ITEMS + rare + [None]
    evens, odds = frozenset(range(0, 2 * MIN_ITEMS, 2)), frozenset(range(1, 2 * MIN_ITEMS, 2))
    assert members(column) == {evens, odds}
    (classes,) = item_fields(catalogue(field=column), ["field"]).classes
    assert classes.tolist() == [[0], [1]] * MIN_ITEMS + [[-1]] * MIN_ITEMS


def test_each_level_of_a_path_is_a_class_and_a_level_is_told_apart_by_what_is_above_it():
    column = ["A > x"] * MIN_ITEMS + ["B > x"] * MIN_ITEMS
    first, second = frozenset(range(MIN_ITEMS)), frozenset(range(MIN_ITEMS, 2 * MIN_ITEMS))
    assert members(column) == {first, second}
    (classes,) = item_fields(catalogue(field=column), ["field"]).classes
    assert classes.tolist() == [[0, 1]] * MIN_ITEMS + [[2, 3]] * MIN_ITEMS


def test_an_item_may_have_several_values():
    column = ["a | b"] * MIN_ITEMS + ["b"] * MIN_ITEMS + ["c|"] * MIN_ITEMS
    groups = [range(MIN_ITEMS), range(2 * MIN_ITEMS), range(2 * MIN_ITEMS, 3 * MIN_ITEMS)]
    assert members(column) == {frozenset(group) for group in groups}
    (classes,) = item_fields(catalogue(field=column), ["field"]).classes
    assert classes.tolist() == [[0, 1]] * MIN_ITEMS + [[1, -1]] * MIN_ITEMS + [[2, -1]] * MIN_ITEMS


def test_a_level_that_all_items_have_is_no_class():
    column = ["shop > a"] * MIN_ITEMS + ["shop > b"] * MIN_ITEMS + [None]
    assert members(column) == {frozenset(range(MIN_ITEMS)), frozenset(range(MIN_ITEMS, 2 * MIN_ITEMS))}


@pytest.mark.parametrize(
    "column",
    [
        pytest.param([None] * 20, id="nulls"),
        pytest.param([""] * 10 + [" > "] * 10, id="blanks"),
        pytest.param([f"v{item}" for item in range(20)], id="a value per item"),
        pytest.param(["same"] * 20, id="one value for all items"),
        pytest.param(["same"] * 10 + [None] * 10, id="one value or none"),
    ],
)
def test_a_column_without_a_usable_value_is_ignored_with_a_warning_and_others_are_not(column: list[str | None]):
    found = item_fields(catalogue(bad=column, good=["a", "b"] * 10), ["bad", "good"])
    assert [classes.tolist() for classes in found.classes] == [[[0], [1]] * 10]
    (note,) = found.notes
    assert note.startswith("warning: field bad is ignored")


@pytest.mark.parametrize("name", ["colour", "item_id", "train_count", ""])
def test_a_column_that_is_not_there_is_refused_with_the_columns_that_are(name: str):
    table = catalogue(title=["t"] * 3, brand=["b"] * 3)
    with pytest.raises(UnigrecError, match=rf"teacher.fields: .* no column '{name}'; their columns are: title, brand$"):
        item_fields(table, ["brand", name])
