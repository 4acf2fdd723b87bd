"""Ids of a catalogue without a Python object each."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unigrec.serving import item_ids
from unigrec.serving.item_ids import ItemIds, ItemIndex


def ids_of(values: list[str | None]) -> ItemIds:
    half = len(values) // 2
    return ItemIds(pa.chunked_array([pa.array(values[:half], pa.string()), pa.array(values[half:], pa.string())]))


@settings(deadline=None)
@given(st.lists(st.text(max_size=4), unique=True, max_size=30), st.text(max_size=4))
def test_an_index_is_a_dictionary(values, other):
    ids = ids_of(values)
    index, expected = ItemIndex(ids), {item: place for place, item in enumerate(values)}
    assert dict(index) == expected
    assert list(ids) == values
    assert ids[:3] == values[:3]
    assert [ids[place] for place in range(len(ids))] == values
    assert index.get(other) == expected.get(other)
    assert (other in index) == (other in expected)


def test_equal_hashes_are_told_apart(monkeypatch):
    monkeypatch.setattr(item_ids, "hash", lambda item: len(item), raising=False)
    index = ItemIndex(ids_of(["bb", "a", "cc", "b", "dd"]))
    assert [index[item] for item in ("bb", "a", "cc", "b", "dd")] == [0, 1, 2, 3, 4]
    assert "ee" not in index
    with pytest.raises(ValueError, match="the item id 'cc' repeats"):
        ItemIndex(ids_of(["bb", "cc", "a", "cc"]))


def test_ids_that_repeat_or_are_null_are_refused():
    with pytest.raises(ValueError, match="the item id 'x' repeats"):
        ItemIndex(ids_of(["x", "y", "x"]))
    with pytest.raises(ValueError, match="1 item ids are null"):
        ids_of(["x", None])
