"""Prepare: k-core against brute force, time order, integer maps, training counts, and what it refuses."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.real_data import real_folder
from unigrec.base.errors import UnigrecError
from unigrec.config.schema import IngestParams, PrepareParams, SampleParams
from unigrec.data.prepare import prepare_tables
from unigrec.data.sources.load import load_source

ANY_SIZE = PrepareParams(k_core=1, ties="given", max_user_interactions=0, min_users_after=1, min_items_after=1)


def params(k: int) -> PrepareParams:
    return PrepareParams(k_core=k, ties="given", max_user_interactions=0, min_users_after=1, min_items_after=1)


def log(rows: list[tuple[str, str, int]]) -> pa.Table:
    users, items, times = zip(*rows, strict=True)
    return pa.table({"user_id": users, "item_id": items, "timestamp": pa.array(times, pa.int64())})


def catalogue_of(rows: list[tuple[str, str, int]]) -> pa.Table:
    ids = [*sorted({item for _, item, _ in rows}), "never bought"]
    return pa.table({"item_id": ids, "title": [f"about {item}" for item in ids]})


def by_user(prepared) -> dict[str, list[tuple[str, int]]]:
    """The sequences with ids instead of indices."""
    user_ids, item_ids = prepared.users["user_id"].to_pylist(), prepared.catalogue["item_id"].to_pylist()
    items, times, offsets = (prepared.sequences[name] for name in ("items", "timestamps", "offsets"))
    return {
        user: [(item_ids[items[i]], int(times[i])) for i in range(offsets[u], offsets[u + 1])]
        for u, user in enumerate(user_ids)
    }


def brute_force(rows: list[tuple[str, str, int]], k: int) -> dict[str, list[tuple[str, int]]]:
    """The same by plain loops: one removal at a time, so no order of rounds is shared with the code under test."""
    rows = list(dict.fromkeys(rows))
    while True:
        users, items = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
        poor = next((row for row in rows if users[row[0]] < k or items[row[1]] < k), None)
        if poor is None:
            break
        rows.remove(poor)
    sequences: dict[str, list[tuple[str, int]]] = {}
    for user, item, moment in sorted(rows, key=lambda row: row[2]):
        sequences.setdefault(user, []).append((item, moment))
    return sequences


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz"), st.integers(0, 3)), min_size=1, max_size=60
    ),
    k=st.integers(1, 4),
)
def test_equals_brute_force(rows, k):
    expected = brute_force(rows, k)
    lengths = [len(sequence) for sequence in expected.values()]
    if max(lengths, default=0) < 3 or not {2, *range(4, 61)} & set(lengths):
        with pytest.raises(UnigrecError, match="prepare: "):  # nobody is left, or can be evaluated or trained on
            prepare_tables(log(rows), catalogue_of(rows), params(k))
        return
    prepared = prepare_tables(log(rows), catalogue_of(rows), params(k))
    assert by_user(prepared) == expected
    held = {user: sequence[:-2] if len(sequence) > 2 else sequence for user, sequence in expected.items()}
    counts = Counter(item for sequence in held.values() for item, _ in sequence)
    columns = prepared.catalogue.to_pydict()
    assert dict(zip(columns["item_id"], columns["train_count"], strict=True)) == {
        item: counts[item] for item in columns["item_id"]
    }


def test_k_core_needs_several_rounds():
    # A chain: dropping the lonely item takes its user below 2, which takes the next item, and so on.
    chain = [(f"u{n}", f"i{n + step}", n) for n in range(6) for step in (0, 1)]
    block = [(user, item, 100) for user in ("x", "y") for item in ("p", "q", "r", "s")]
    prepared = prepare_tables(log(chain + block), catalogue_of(chain + block), params(2))
    assert by_user(prepared) == {user: [(item, 100) for item in "pqrs"] for user in ("x", "y")}
    assert len(prepared.stats["k_core_rounds"]) > 2
    assert sum(prepared.stats["k_core_rounds"]) == len(chain)


def test_ties_keep_the_given_order():
    rows = [("u", item, 5) for item in ("c", "a", "d", "b")] + [("u", "first", 1)]
    prepared = prepare_tables(log(rows), catalogue_of(rows), ANY_SIZE)
    assert [item for item, _ in by_user(prepared)["u"]] == ["first", "c", "a", "d", "b"]
    assert prepared.stats["adjacent_tie_share"] == pytest.approx(3 / 4)


def test_shuffled_ties_ignore_the_order_of_the_rows_and_tell_nothing_of_the_item():
    rows = [(f"u{u}", f"i{n}", n // 10) for u in range(40) for n in range(20)]
    shuffled = ANY_SIZE.model_copy(update={"ties": "shuffled"})
    one, other = (prepare_tables(log(order), catalogue_of(rows), shuffled) for order in (rows, rows[::-1]))
    assert by_user(one) == by_user(other)
    orders = {tuple(item for item, _ in sequence) for sequence in by_user(one).values()}
    assert len(orders) == 40  # each user has their own
    assert all(sorted(times) == times for times in ([t for _, t in s] for s in by_user(one).values()))
    assert one.stats["ordered_tie_share"] < 0.6
    assert not one.stats["warnings"]
    fewer = prepare_tables(log(rows[:400]), catalogue_of(rows), shuffled)  # other users do not change an order
    assert by_user(fewer) == {user: by_user(one)[user] for user in by_user(fewer)}


def test_of_a_user_with_too_many_interactions_the_latest_count():
    rows = [("robot", f"i{n % 7}", n) for n in range(90)] + [(f"u{u}", f"i{n}", n) for u in range(5) for n in range(7)]
    whole, capped = (
        prepare_tables(log(rows), catalogue_of(rows), ANY_SIZE.model_copy(update={"max_user_interactions": maximum}))
        for maximum in (0, 10)
    )
    assert by_user(capped) == by_user(whole) | {"robot": by_user(whole)["robot"][-10:]}
    assert [prepared.stats["beyond_max_user_interactions"] for prepared in (whole, capped)] == [0, 80]


def test_a_limit_that_nobody_reaches_changes_nothing():
    rows = [(f"u{u}", f"i{(u * 7 + n) % 11}", n // 2) for u in range(9) for n in range(8)]
    one, other = (
        prepare_tables(log(rows), catalogue_of(rows), params(3).model_copy(update={"max_user_interactions": maximum}))
        for maximum in (0, 8)
    )
    assert by_user(one) == by_user(other)
    assert one.stats == other.stats


@pytest.mark.parametrize(
    ("each", "k", "says"),
    [
        ([2] * 60, 1, "60 users, 0 can be evaluated"),
        ([2] * 60, 2, "60 users, 0 can be evaluated"),
        ([1] * 60, 1, "60 users, 0 can be evaluated"),
        ([2] * 60 + [5] * 49, 1, "109 users, 49 can be evaluated"),
        ([3] * 60, 3, "60 users, 0 can be trained on"),
        ([3] * 60 + [4] * 49, 1, "109 users, 49 can be trained on"),
    ],
)
def test_histories_that_are_too_short_to_evaluate_or_train_are_refused(each, k, says):
    rows = [(f"u{user}", f"i{n}", n) for user, length in enumerate(each) for n in range(length)]
    least = params(k).model_copy(update={"min_users_after": 50})
    with pytest.raises(UnigrecError, match=f"{says}, fewer than prepare.min_users_after = 50.*longer histories"):
        prepare_tables(log(rows), catalogue_of(rows), least)


@pytest.mark.parametrize("each", [[2] * 50 + [3] * 50, [4] * 50, [1] * 9 + [5] * 50])
def test_histories_that_just_suffice_are_taken(each):
    rows = [(f"u{user}", f"i{n}", n) for user, length in enumerate(each) for n in range(length)]
    prepared = prepare_tables(log(rows), catalogue_of(rows), params(1).model_copy(update={"min_users_after": 50}))
    assert prepared.stats["held_out_users"] == 50


def test_exact_duplicates_are_one_interaction_and_repeats_at_other_times_are_not():
    rows = [("u", "a", 1), ("u", "b", 1), ("u", "a", 1), ("u", "a", 2), ("u", "c", 3)]
    prepared = prepare_tables(log(rows), catalogue_of(rows), ANY_SIZE)
    assert by_user(prepared)["u"] == [("a", 1), ("b", 1), ("a", 2), ("c", 3)]
    assert prepared.stats["duplicates_removed"] == 1


def test_ties_between_users_are_no_ties():
    rows = [(user, item, first + n) for user, first in (("u", 1), ("v", 4)) for n, item in enumerate("abcd")]
    assert prepare_tables(log(rows), catalogue_of(rows), ANY_SIZE).stats["adjacent_tie_share"] == 0.0


def test_ids_of_any_writing_are_kept_and_sorted_by_bytes():
    users = ["Zoë, the 2nd", "用户 1", "a b", "Äpfel", "10", "9"]
    items = ["x,y", "товар", "it em", "😀", "z"]
    rows = [(user, item, n) for user in users for n, item in enumerate(items)]
    prepared = prepare_tables(log(rows), catalogue_of(rows), params(5))
    assert prepared.users["user_id"].to_pylist() == sorted(users, key=str.encode)
    assert prepared.catalogue["item_id"].to_pylist() == sorted(items, key=str.encode)
    assert prepared.catalogue["title"].to_pylist() == [f"about {item}" for item in sorted(items, key=str.encode)]
    assert set(by_user(prepared)) == set(users)


def test_types_and_indices_are_the_documented_ones():
    rows = [("u", "a", 1), ("u", "b", 2), ("v", "a", 3), ("u", "a", 4), ("u", "b", 5)]
    prepared = prepare_tables(log(rows), catalogue_of(rows), ANY_SIZE)
    kinds = {name: array.dtype for name, array in prepared.sequences.items()}
    assert kinds == {"items": np.int32, "timestamps": np.int64, "offsets": np.int64}
    assert prepared.users.schema == pa.schema([("user_index", pa.int32()), ("user_id", pa.string())])
    assert prepared.catalogue.schema == pa.schema(
        [("item_index", pa.int32()), ("item_id", pa.string()), ("title", pa.string()), ("train_count", pa.int32())]
    )
    assert prepared.catalogue["item_index"].to_pylist() == [0, 1]


def test_a_user_of_two_trains_and_a_user_of_three_gives_test_and_validation():
    rows = [("two", "a", 1), ("two", "b", 2), ("three", "a", 1), ("three", "b", 2), ("three", "c", 3)]
    prepared = prepare_tables(log(rows), catalogue_of(rows), ANY_SIZE)
    assert prepared.catalogue["train_count"].to_pylist() == [2, 1, 0]
    assert prepared.stats["held_out_users"] == 1


def test_one_user_for_everything():
    rows = [("same", f"i{n % 10}", n) for n in range(60)]
    prepared = prepare_tables(log(rows), catalogue_of(rows), params(5))
    assert prepared.stats["after"] == {"users": 1, "items": 10, "interactions": 60}


def test_all_users_alike_and_a_catalogue_of_ten():
    rows = [(f"u{u}", f"i{n}", n) for u in range(30) for n in range(10)]
    prepared = prepare_tables(log(rows), catalogue_of(rows), params(5))
    assert prepared.sequences["items"].reshape(30, 10).tolist() == [list(range(10))] * 30
    assert prepared.stats["density"] == 1.0
    assert prepared.catalogue["train_count"].to_pylist() == [30] * 8 + [0, 0]


def test_nothing_left_names_the_rounds_and_what_to_change():
    rows = [(f"u{n}", f"i{n + step}", n) for n in range(6) for step in (0, 1)]
    with pytest.raises(UnigrecError, match=r"5-core filtering left 0 users.*12 interactions.*removed: 12\..*k_core"):
        prepare_tables(log(rows), catalogue_of(rows), params(5))


def test_too_few_items_left():
    rows = [(f"u{u}", f"i{n}", n) for u in range(8) for n in range(6)]
    least = PrepareParams(k_core=5, ties="given", max_user_interactions=0, min_users_after=5, min_items_after=20)
    with pytest.raises(UnigrecError, match=r"left 6 items, fewer than prepare.min_items_after = 20"):
        prepare_tables(log(rows), catalogue_of(rows), least)


@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp"])
def test_missing_values_are_refused(column):
    rows = [("u", "a", 1), ("u", "b", 2)]
    table = log(rows)
    values = table[column].to_pylist()
    holed = table.set_column(
        table.column_names.index(column), column, pa.array([None, values[1]], table.schema.field(column).type)
    )
    with pytest.raises(UnigrecError, match=f"1 of 2 rows have no {column}"):
        prepare_tables(holed, catalogue_of(rows), ANY_SIZE)


def test_unknown_and_repeated_items_are_refused():
    rows = [("u", "a", 1), ("u", "b", 2)]
    with pytest.raises(UnigrecError, match="1 rows name an item that items lacks"):
        prepare_tables(log(rows), pa.table({"item_id": ["a"]}), ANY_SIZE)
    with pytest.raises(UnigrecError, match="1 rows repeat an item_id"):
        prepare_tables(log(rows), pa.table({"item_id": ["a", "b", "a"]}), ANY_SIZE)


def test_interactions_of_unknown_items_are_left_out_up_to_a_share_and_counted():
    rows = [(f"u{user}", f"i{item}", user + item) for user in range(4) for item in range(5)]
    known = pa.table({"item_id": [f"i{item}" for item in range(4)]})
    left = prepare_tables(log(rows), known, ANY_SIZE, max_unknown=0.2)
    alone = prepare_tables(log([row for row in rows if row[1] != "i4"]), known, ANY_SIZE)
    assert by_user(left) == by_user(alone)
    assert left.stats["unknown_items_removed"] == 4
    assert left.stats["before"] == {"users": 4, "items": 5, "interactions": 20}
    assert left.stats["warnings"][0] == (
        "4 of 20 interactions (20.00%) are of 1 items that the items table lacks: they are left out"
    )
    with pytest.raises(UnigrecError, match="4 rows name an item that items lacks"):
        prepare_tables(log(rows), known, ANY_SIZE, max_unknown=0.19)


def test_chunks_and_row_groups_do_not_matter():
    rows = [(f"u{u}", f"i{(u * 7 + n) % 11}", n // 2) for u in range(9) for n in range(8)]
    whole = log(rows)
    parts = pa.concat_tables([whole.slice(start, 5) for start in range(0, len(rows), 5)])
    one, other = (prepare_tables(table, catalogue_of(rows), params(3)) for table in (whole, parts))
    assert by_user(one) == by_user(other)
    assert one.stats == other.stats


@pytest.mark.parametrize(
    ("name", "after", "tie_share"),
    [
        ("beauty", {"users": 22_363, "items": 12_101, "interactions": 198_502}, 0.439),
        ("office", {"users": 4_905, "items": 2_420, "interactions": 53_258}, 0.0),
    ],
)
def test_real_data_has_the_published_figures(name, after, tie_share):
    folder = real_folder(name)
    sample = SampleParams(users=1, items=10, interactions=1)
    ingest = IngestParams(source="folder", path=str(folder), min_rating=0.0, sample=sample)
    source = load_source(ingest, seed=0)
    started = time.perf_counter()
    prepared = prepare_tables(source.interactions, source.items, params(5))
    assert time.perf_counter() - started < 3.0
    assert prepared.stats["after"] == after
    assert prepared.stats["k_core_rounds"] == []
    assert prepared.stats["adjacent_tie_share"] == pytest.approx(tie_share, abs=5e-4)
    assert prepared.stats["length"]["min"] == 5
    assert int(prepared.catalogue["train_count"].to_numpy().sum()) == after["interactions"] - 2 * after["users"]


# --- event types -----------------------------------------------------------------------------------------------------

EVENTS = {"purchase": 1.0, "view": 0.2, "return": 0.0}
VISITS = [  # of one user: what was done with which item, in order
    *(("view", "a"), ("purchase", "a"), ("view", "b"), ("purchase", "c"), ("view", "d"), ("purchase", "d")),
    *(("return", "d"), ("view", "e")),
]


def with_events(visits: list[tuple[str, str]] = VISITS, evaluation_event: str = "purchase", repeats: int = 1):
    rows = [("u", item, time, event) for time, (event, item) in enumerate(visits)] * repeats
    table = log([row[:3] for row in rows]).append_column("event", pa.array([row[3] for row in rows]))
    settings_ = ANY_SIZE.model_copy(update={"evaluation_event": evaluation_event})
    return prepare_tables(table, catalogue_of([row[:3] for row in rows]), settings_, EVENTS)


def test_the_last_purchase_is_the_test_item_and_the_one_before_it_the_validation_item():
    prepared = with_events()
    assert [item for item, _ in by_user(prepared)["u"]] == ["a", "a", "b", "c", "d", "d"]  # later events are removed
    sequences = prepared.sequences
    assert sequences["validation"].tolist() == [3]
    counts = dict(zip(*(prepared.catalogue[name].to_pylist() for name in ("item_id", "train_count")), strict=True))
    assert counts == {"a": 2, "b": 1, "c": 0, "d": 0, "e": 0}
    assert prepared.stats["held_out_users"] == 1
    # The targets are the purchase of a and the view of b: 1 and 0.2, and 1 on average.
    np.testing.assert_allclose(sequences["weights"][1:3], [1 / 0.6, 0.2 / 0.6], rtol=1e-6)
    assert sequences["weights"].dtype == np.float32


def test_without_a_named_event_those_with_a_weight_are_evaluated():
    prepared = with_events([*VISITS[:-1], ("return", "e")], evaluation_event="")
    assert (len(prepared.sequences["items"]), prepared.sequences["validation"].tolist()) == (6, [4])


def test_events_of_one_moment_are_repeats_only_if_they_are_of_one_type():
    assert with_events(repeats=2).stats["duplicates_removed"] == len(VISITS)
    rows = [("view", "a"), ("purchase", "a")]
    table = log([("u", item, 7) for _, item in rows]).append_column("event", pa.array([event for event, _ in rows]))
    with pytest.raises(UnigrecError, match=r"0 users can be evaluated, .* takes two events 'purchase'"):
        prepare_tables(
            table, catalogue_of([("u", "a", 7)]), ANY_SIZE.model_copy(update={"evaluation_event": "purchase"}), EVENTS
        )


def test_a_log_whose_only_purchases_are_held_out_teaches_nothing():
    with pytest.raises(UnigrecError, match=r"0 users can be trained on, .* a weight above 0 besides the two that are"):
        with_events([("return", "a"), ("return", "b"), ("purchase", "c"), ("purchase", "d")])


def test_a_user_with_one_purchase_trains_with_all_that_was_done():
    rows = [("u", item, time, event) for time, (event, item) in enumerate(VISITS)]
    rows += [("v", "a", 1, "view"), ("v", "b", 2, "purchase"), ("v", "c", 3, "view")]
    table = log([row[:3] for row in rows]).append_column("event", pa.array([row[3] for row in rows]))
    chosen = ANY_SIZE.model_copy(update={"evaluation_event": "purchase"})
    prepared = prepare_tables(table, catalogue_of([row[:3] for row in rows]), chosen, EVENTS)
    assert [item for item, _ in by_user(prepared)["v"]] == ["a", "b", "c"]
    assert prepared.sequences["validation"].tolist() == [3, -1]
    assert prepared.stats["max_target_share"] == 1.0  # the one test item; v has none


def test_without_event_types_there_is_nothing_new_in_the_sequences():
    rows = [("u", item, time) for time, (_, item) in enumerate(VISITS)]
    assert set(prepare_tables(log(rows), catalogue_of(rows), ANY_SIZE, {}).sequences) == {
        "items",
        "timestamps",
        "offsets",
    }
