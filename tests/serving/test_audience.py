"""Who takes an item next: scores are those of `recommend`, for trained and for unknown histories."""

from __future__ import annotations

import pyarrow as pa
import pytest

from support.tiny_model import ITEMS
from unigrec.base.errors import UnigrecError
from unigrec.commands.audience import quoted
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.data.histories import histories_of
from unigrec.serving.bundle import Bundle

HISTORIES = [["P3", "P4"], ["gone"], ["P5"], ["P6", "P7", None, "P3"], []]


@pytest.fixture(scope="module")
def bundle(pristine) -> Bundle:
    return Bundle.load(pristine)


@pytest.mark.parametrize("by", RankBy)
def test_the_users_are_ordered_by_the_score_that_recommend_gives_the_item(bundle, by):
    answer = bundle.audience("P8", HISTORIES, k=3, rank_by=by)
    expected = {}
    for row in (0, 2, 3):
        (found,) = bundle.recommend([HISTORIES[row]], k=ITEMS, rank_by=by)
        expected[row] = next(item.score for item in found.items if item.item_id == "P8")
    assert [user.row for user in answer.users] == sorted(expected, key=lambda row: -expected[row])
    assert [user.score for user in answer.users] == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-4)
    assert answer.unread == 2
    assert bundle.audience("P8", HISTORIES, k=1, rank_by=by).users == answer.users[:1]


@pytest.mark.parametrize(
    ("item", "histories", "k", "message"),
    [
        ("gone", HISTORIES, 1, "no item 'gone' in the catalogue"),
        ("P8", [["gone"], []], 1, "none of the 2 histories holds an item of the catalogue"),
        ("P8", HISTORIES, 0, "k = 0: expected at least 1"),
    ],
)
def test_what_cannot_be_asked(bundle, item, histories, k, message):
    with pytest.raises(UnigrecError, match=message):
        bundle.audience(item, histories, k)


def test_histories_are_in_the_order_of_time_and_ties_in_that_of_the_rows():
    columns = {"user_id": ["u", "v", "u", "u"], "item_id": ["c", "x", "a", "b"], "timestamp": [5, 1, 2, 2]}
    table = pa.table(columns)
    assert dict(zip(*histories_of(table), strict=True)) == {"v": ["x"], "u": ["a", "b", "c"]}
    # What is there twice is one interaction; at another time it is another one.
    again = pa.table({"user_id": ["u", "u"], "item_id": ["b", "b"], "timestamp": [2, 3]})
    assert dict(zip(*histories_of(pa.concat_tables([table, again])), strict=True))["u"] == ["a", "b", "b", "c"]
    events = pa.array(["view"] * table.num_rows + ["buy"] * table.num_rows)
    viewed = pa.concat_tables([table, table]).append_column("event", events)
    assert dict(zip(*histories_of(viewed), strict=True))["u"] == ["a", "b", "a", "b", "c", "c"]
    with pytest.raises(UnigrecError, match="no interaction"):
        histories_of(table.slice(0, 0))
    assert [quoted(text) for text in ("plain", 'a,"b"')] == ["plain", '"a,""b"""']
