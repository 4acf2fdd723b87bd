"""Signs of misread data: each is found with its neighbours, and clean data has none."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from unigrec.config.schema import PrepareParams
from unigrec.data.prepare import prepare_tables

DAY = 86_400
MOMENT = 1_600_041_600  # midnight
USERS, ITEMS, EACH = 120, 40, 9
Rows = list[tuple[str, str, int]]


def clean(seed: int = 1) -> Rows:
    """Each user takes nine different items, hours apart."""
    generator = random.Random(seed)
    return [
        (f"u{user}", item, MOMENT + 50_000 * place + generator.randrange(40_000))
        for user in range(USERS)
        for place, item in enumerate(generator.sample([f"i{number}" for number in range(ITEMS)], EACH))
    ]


def stats(rows: Rows, titles: list[str | None] | None = None, **changes) -> dict:
    users, items, times = zip(*rows, strict=True)
    ids = sorted(set(items))
    values = {"k_core": 1, "ties": "given", "max_user_interactions": 0, "min_users_after": 1, "min_items_after": 1}
    return prepare_tables(
        pa.table({"user_id": users, "item_id": items, "timestamp": pa.array(times, pa.int64())}),
        pa.table({"item_id": ids, "title": pa.array(titles or [f"about {item}" for item in ids], pa.string())}),
        PrepareParams(**(values | changes)),
    ).stats


def warnings(rows: Rows, titles: list[str | None] | None = None, **changes) -> list[str]:
    return stats(rows, titles, **changes)["warnings"]


def test_clean_data_has_no_sign():
    assert warnings(clean()) == []


# --- missing values that were written as text ------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "NULL", "null", "NaT", "<NA>", " nan "])
def test_a_missing_user_or_item_that_was_written_as_text(word):
    rows = clean()
    as_user = [(word if n % 20 == 0 else user, item, time) for n, (user, item, time) in enumerate(rows)]
    as_item = [(user, word if n % 20 == 0 else item, time) for n, (user, item, time) in enumerate(rows)]
    assert warnings(as_user)[0].startswith(f"5.0% of the rows have the user_id {word!r}")
    assert warnings(as_item)[0].startswith(f"5.0% of the rows have the item_id {word!r}")


def test_a_missing_text_that_was_written_as_text():
    titles = ["None" if n % 4 == 0 else None if n % 4 == 1 else f"about {n}" for n in range(ITEMS)]
    (found,) = warnings(clean(), titles)
    assert found.startswith("25.0% of the rows have the title 'None'")


def test_words_that_hold_null_and_rare_ones_are_names():
    rows = clean()
    rows[3] = ("null", *rows[3][1:])  # a user of this name
    assert warnings(rows, ["nana", "nonesuch", "Nat King Cole", *[f"about {n}" for n in range(ITEMS - 3)]]) == []


# --- one user, one item ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("robots", [("bot",), ("bot", "crawler")])
def test_a_user_with_a_large_share_of_the_interactions(robots):
    generator, rows = random.Random(2), clean()
    rows += [(robot, f"i{generator.randrange(ITEMS)}", MOMENT + 60 * n) for robot in robots for n in range(3000)]
    found = [sentence for sentence in warnings(rows) if sentence.startswith("user ")]
    share = 3000 / len(rows)
    assert [sentence[: sentence.index(" of")] for sentence in found] == [f"user '{r}' has {share:.1%}" for r in robots]
    assert not [s for s in warnings(rows, max_user_interactions=20) if s.startswith("user ")]


def test_in_a_small_shop_nobody_has_a_large_share():
    assert warnings([row for row in clean() if int(row[0][1:]) < 12]) == []


def test_an_item_that_many_users_end_with():
    rows = [("gift" if n % EACH == EACH - 1 and n % 2 else item, n) for n, (_, item, _) in enumerate(clean())]
    rows = [(user, item, time) for (user, _, time), (item, _) in zip(clean(), rows, strict=True)]
    (found,) = warnings(rows)
    assert found.startswith("item 'gift' is the test item of 50.0% of the users")


# --- repeats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1, 30, 300, 3600, 7200])
def test_an_export_that_is_there_twice_with_a_shift(shift):
    rows = clean()
    found = warnings(rows + [(user, item, time + shift) for user, item, time in rows])
    assert any(f"50.0% of the interactions come again exactly {shift:,} s later" in sentence for sentence in found)
    assert any(sentence.startswith("50.0%") and "within 60 s" in sentence for sentence in found) == (shift <= 60)
    test_items = [sentence for sentence in found if sentence.startswith("the test item of")]
    assert "unmasked figures mean nothing" in test_items[0]


def test_double_clicks():
    generator, rows = random.Random(3), clean()
    rows += [(user, item, time + generator.randrange(1, 20)) for user, item, time in rows if generator.random() < 0.15]
    (found,) = warnings(rows)
    assert "repeat the user's item before them within 60 s" in found


def test_items_that_are_bought_again_are_no_double_export():
    rows = clean()
    rows += [(user, item, time + 7 * DAY) for user, item, time in rows]  # the same basket, a week later
    assert warnings(rows) == []


@pytest.mark.parametrize("seconds", [0, 30, 600])
def test_a_view_before_each_purchase_is_no_double_export(seconds):
    rows = [(user, item, time + offset) for user, item, time in clean() for offset in (0, seconds)]
    users, items, times = zip(*rows, strict=True)
    columns = {"user_id": users, "item_id": items, "timestamp": pa.array(times, pa.int64())}
    found = {
        kinds: prepare_tables(
            pa.table(columns | {"event": kinds * (len(rows) // 2)}),
            pa.table({"item_id": sorted(set(items))}),
            PrepareParams(k_core=1, ties="given", max_user_interactions=0, min_users_after=1, min_items_after=1),
            {"view": 0.2, "purchase": 1.0},
        ).stats["warnings"]
        for kinds in (("view", "purchase"), ("purchase", "purchase"))
    }
    said = {kinds: [s for s in sentences if "twice" in s] for kinds, sentences in found.items()}
    assert said["view", "purchase"] == []
    assert said["purchase", "purchase"] or not seconds  # rows equal in all are one interaction


# --- ties ------------------------------------------------------------------------------------------------------------


def by_days(rows: Rows) -> Rows:
    return [(user, item, time - time % DAY) for user, item, time in rows]


def number(name: str) -> int:
    return int(name[1:])


@pytest.mark.parametrize(
    ("key", "order"),
    [
        (lambda item: item, "ascending order of the item id"),
        (number, "ascending order of the number in the item id"),
        (lambda item: -number(item), "descending order of the number in the item id"),
        (lambda item: number(item) * 7919 % 101, "one order of the items, the same for all users"),  # another column
    ],
    ids=["as text", "as a number", "descending", "another column"],
)
def test_ties_that_are_sorted_by_item(key, order):
    rows = by_days(clean())
    (found,) = warnings(sorted(rows, key=lambda row: key(row[1])))
    assert order in found
    assert "(the times are days)" in found
    ties = stats(rows)["test_tie_share"]
    assert ties > 0.3
    assert f"decides the test item of {ties:.1%} of the users" in found
    assert warnings(sorted(rows, key=lambda row: key(row[1])), ties="shuffled") == []


def test_ties_in_an_order_that_is_not_the_items():
    rows = by_days(clean())
    random.Random(4).shuffle(rows)
    assert warnings(rows) == []
    assert warnings(by_days(clean())) == []  # the true order


def test_an_item_at_one_time_with_itself_has_no_order():
    rows = [(user, item, time) for user, item, time in clean() for _ in range(2)]
    assert not any("have one time" in sign for sign in warnings(rows))


def test_few_ties_decide_nothing():
    rows = clean()
    few = [(user, item, time - time % DAY if number(user) < 6 else time) for user, item, time in rows]
    assert warnings(sorted(few, key=lambda row: row[1])) == []
