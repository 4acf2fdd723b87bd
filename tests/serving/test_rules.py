"""Diversity, the share of new items and boosts in a bundle's answers, and the texts that say them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.bundles import resign
from support.tiny_model import ITEMS, item_ids, tiny_codes
from unigrec.base.errors import UnigrecError
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.serving.bundle import Bundle
from unigrec.serving.rules import FIRST_CODE
from unigrec.serving.schema import Diversity, NewShare, Request

HISTORY = ["P3", "P10", "a,b"]
NAMES = item_ids()


@pytest.fixture(scope="module")
def bundle(pristine) -> Bundle:
    return Bundle.load(pristine)


def ranked(bundle: Bundle, k: int = ITEMS, **rules) -> list[str]:
    (answer,) = bundle.recommend([HISTORY], k=k, **rules)
    return [item.item_id for item in answer.items]


def test_one_item_per_first_code(bundle):
    kinds = dict(zip(NAMES, tiny_codes(0).codes[:, 0].tolist(), strict=True))
    every = ranked(bundle)
    best_of_kind = list({kinds[item]: item for item in reversed(every)}.values())
    found = ranked(bundle, k=len(best_of_kind), diversity=Diversity(per=FIRST_CODE, at_most=1))
    assert found == sorted(best_of_kind, key=every.index)


def test_every_entry_of_a_list_counts(bundle):
    assert ranked(bundle, k=3, diversity=Diversity(per="tags", at_most=1)) == ranked(bundle, k=1)  # all have one tag


@pytest.mark.parametrize("by", list(RankBy))
def test_new_items_get_their_places(bundle, by):
    """Item n was first seen n days before the end."""
    new = set(NAMES[:3])
    every = ranked(bundle, rank_by=by)
    at_least = ranked(bundle, k=4, rank_by=by, new_share=NewShare(days=2.5, at_least=3))
    assert set(at_least) == new | {next(item for item in every if item not in new)}
    at_most = ranked(bundle, k=4, rank_by=by, new_share=NewShare(days=2.5, at_most=0))
    assert at_most == [item for item in every if item not in new][:4]
    # There are only three of them: the places that they leave empty go to others.
    assert len(ranked(bundle, k=6, rank_by=by, new_share=NewShare(days=2.5, at_least=6))) == 6


def test_a_boost_is_added_to_the_scores(bundle):
    (plain,) = bundle.recommend([HISTORY], k=ITEMS)
    scores = {item.item_id: item.score + 2.0 * (NAMES.index(item.item_id) > 8) for item in plain.items}
    (answer,) = bundle.recommend([HISTORY], k=5, boost={"price > 8": 2.0})
    assert [item.item_id for item in answer.items] == sorted(scores, key=scores.__getitem__, reverse=True)[:5]
    assert [item.score for item in answer.items] == pytest.approx(sorted(scores.values(), reverse=True)[:5], abs=1e-5)


def test_rules_hold_for_popular_items_too(bundle):
    (answer,) = bundle.recommend([[]], k=2, diversity=Diversity(per="brand", at_most=1), filter="brand != 'HP'")
    assert [item.item_id for item in answer.items] == [NAMES[-1]]
    (answer,) = bundle.recommend([[]], k=1, boost={"price = 0": 9.0})
    assert [item.item_id for item in answer.items] == [NAMES[0]]


def test_rules_as_texts():
    request = Request.parse(
        histories=[],
        diversity="2 per first code",
        new_share="1 to 3 younger than 30 days",
        boost=["0.5: brand = 'Canon'", "-1: price > 3"],
    )
    assert request.diversity == Diversity(per=FIRST_CODE, at_most=2)
    assert request.new_share == NewShare(days=30, at_least=1, at_most=3)
    assert request.boost == {"brand = 'Canon'": 0.5, "price > 3": -1.0}
    assert Request.parse(histories=[], new_share="at most 2 younger than 1.5 days").new_share == NewShare(
        days=1.5, at_most=2
    )


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"diversity": "two per brand"}, "diversity: 'two per brand' is not understood; for example: 2 per brand"),
        ({"diversity": "0 per brand"}, "diversity.at_most"),
        ({"new_share": "2 younger"}, "new_share: '2 younger' is not understood"),
        ({"new_share": "3 to 1 younger than 2 days"}, "at least 3 and at most 1"),
        ({"boost": ["brand = 'HP'"]}, "boost: .* is not understood; for example: 0.3"),
        ({"boost": "0.3: new"}, "boost: expected"),
        ({"boost": {f"price > {n}": 1.0 for n in range(5)}}, "boost"),
        ({"boost": {"price > 1": float("inf")}}, "boost"),
    ],
)
def test_a_rule_that_is_not_understood(rules, message):
    with pytest.raises(UnigrecError, match=message):
        Request.parse(histories=[], **rules)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"diversity": Diversity(per="colour", at_most=1)},
            "diversity: no column 'colour'; the catalogue has item_index",
        ),
        ({"new_share": NewShare(days=1, at_least=9)}, "at least 9 of k = 2"),
        ({"boost": {"colour = 1": 1.0}}, "no column 'colour'"),
    ],
)
def test_a_rule_that_cannot_be_kept(bundle, rules, message):
    with pytest.raises(UnigrecError, match=message):
        bundle.recommend([HISTORY], k=2, **rules)


def test_a_bundle_of_an_earlier_version_has_no_ages(folder):
    (folder / "columns.parquet").unlink()
    resign(folder)
    bundle = Bundle.load(folder)
    assert len(bundle.recommend([HISTORY], k=2, diversity=Diversity(per="title", at_most=1))[0].items) == 2
    with pytest.raises(UnigrecError, match=r"does not know since when .* serve\.date"):
        bundle.recommend([HISTORY], k=2, new_share=NewShare(days=1, at_least=1))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"item_id": NAMES[::-1]}), "not those of catalogue.parquet"),
        (pa.table({"brand": NAMES}), "not those of catalogue.parquet"),
        (pa.table({"item_id": NAMES, "photo": pa.array([b""] * ITEMS, pa.binary())}), "'photo' is of type binary"),
    ],
)
def test_served_columns_of_other_items_do_not_load(folder, table, message):
    pq.write_table(table, folder / "columns.parquet")
    resign(folder)
    with pytest.raises(UnigrecError, match=message):
        Bundle.load(folder)


def test_dates_are_compared_with_dates(bundle):
    first = ranked(bundle, filter='first_seen > "2023-11-13T22:00"')  # the log ends on the 14th, at 22:13
    assert set(first) == set(NAMES[:2])
    assert len(bundle.recommend([HISTORY], k=ITEMS, filter='first_seen >= "1990-01-01"')[0].items) == ITEMS
    with pytest.raises(UnigrecError, match="'soon' is none"):
        ranked(bundle, filter='first_seen > "soon"')
