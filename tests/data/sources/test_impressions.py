"""Which impressions are hits, under which version a user counts, and which logs cannot be read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from support.impressions import DAY, NAME, START, impression, taken, write_log
from unigrec.base.errors import UnigrecError
from unigrec.data.sources.impressions import Experiment, read_experiment

OTHER = {"variant": "challenger"}


def read(tmp_path, rows, interactions, window=7 * DAY, **options) -> Experiment:
    return read_experiment(write_log(tmp_path / "log", rows), interactions, window, **options)


def by_user(found: Experiment) -> list[tuple[bool, bool, int, int]]:
    """challenger, both, shown, hits: per user, by user id."""
    columns = (found.is_challenger, found.both, found.shown, found.hits)
    return [(bool(a), bool(b), int(c), int(d)) for a, b, c, d in zip(*columns, strict=True)]


@pytest.mark.parametrize("name", ["experiment=summer", "variant=champion", "log[1]", "what?"])
def test_the_name_of_a_folder_changes_nothing(tmp_path, name):
    rows = [impression("u", ["A", "B"]), impression("v", ["D"], **OTHER)]
    found = read_experiment(write_log(tmp_path / name, rows), taken(("u", "B", 1.0)), 7 * DAY)
    assert by_user(found) == by_user(read(tmp_path, rows, taken(("u", "B", 1.0))))


@pytest.mark.parametrize(
    ("user", "item", "day", "hit"),
    [
        ("u", "B", 1.0, 1),
        ("u", "B", 0.0, 1),  # in the same second
        ("u", "B", 7.0, 1),
        ("u", "B", 7.1, 0),  # after the window
        ("u", "B", -0.1, 0),  # before the impression
        ("u", "C", 1.0, 0),  # not shown
        ("v", "B", 1.0, 0),  # shown to another user
    ],
)
def test_a_hit_is_a_shown_item_taken_by_the_user_within_the_window(tmp_path, user, item, day, hit):
    rows = [impression("u", ["A", "B"]), impression("v", ["D"], **OTHER)]
    found = read(tmp_path, rows, taken((user, item, day), ("w", "A", 9.001)))
    assert by_user(found) == [(False, False, 1, hit), (True, False, 1, 0)]


def test_an_impression_is_one_hit_however_much_of_it_is_taken(tmp_path):
    rows = [impression("u", ["A", "B"]), impression("u", ["A"], 1.0), impression("u", ["C"], 2.0)]
    rows.append(impression("v", ["A"], **OTHER))
    found = read(tmp_path, rows, taken(("u", "A", 1.5), ("u", "B", 1.5), ("u", "A", 1.6)))
    assert by_user(found) == [(False, False, 3, 2), (True, False, 1, 0)]


def test_a_user_of_both_counts_under_the_first_version_and_its_impressions(tmp_path):
    rows = [
        impression("u", ["A"], 1.0),
        impression("u", ["B"], 0.5, **OTHER),
        impression("u", ["B"], 2.0, **OTHER),
        impression("v", ["A"]),
    ]
    found = read(tmp_path, rows, taken(("u", "A", 1.5), ("u", "B", 1.9)))
    assert by_user(found) == [(True, True, 2, 1), (False, False, 1, 0)]
    assert found.impressions == 4


def test_what_is_no_part_of_the_experiment_is_left_out(tmp_path):
    rows = [
        impression("u", ["A"]),
        impression("v", ["A"], share=0.1, **OTHER),
        impression("v", ["A"], 1.0, share=0.3, **OTHER),
        impression("w", ["A"], assigned="asked", **OTHER),
        impression("x", ["A"], assigned="no challenger", experiment=None),
        impression("y", ["A"], -3.0, experiment="9-vs-8"),
    ]
    found = read(tmp_path, rows, taken(("u", "A", 0.1)))
    assert found.name == NAME
    assert found.others == ["9-vs-8"]
    assert by_user(found) == [(False, False, 1, 1), (True, False, 2, 0)]
    assert found.shares.tolist() == [0.5, 0.1]  # of the first impression
    assert found.versions["challenger"] == {"version": "2", "bundle": "bundle 2"}
    assert (found.since, found.until, found.impressions) == (START, START + DAY, 3)
    assert found.open == 3  # the file ends before the windows do


def test_days_without_times_count_from_the_day_of_the_impression(tmp_path):
    rows = [impression("u", ["A"]), impression("v", ["A"], **OTHER)]
    midnight = -(START % DAY) / DAY
    found = read(tmp_path, rows, taken(("u", "A", midnight), ("v", "A", midnight - 1)))
    assert found.days_only
    assert by_user(found) == [(False, False, 1, 1), (True, False, 1, 0)]


def test_a_log_larger_than_a_batch_is_joined_as_a_loop_does(tmp_path):
    chance = np.random.default_rng(0)
    users, items = [f"u{number}" for number in range(30)], [f"P{number}" for number in range(20)]
    rows = [
        impression(users[user], [items[item] for item in chance.choice(20, 3, replace=False)], at, **fields)
        for user, at in zip(chance.integers(0, 30, 400), chance.random(400) * 20, strict=True)
        for fields in [OTHER if user % 3 == 0 else {}]
    ]
    bought = [
        (users[user], items[item], day)
        for user, item, day in zip(
            chance.integers(0, 30, 300), chance.integers(0, 20, 300), chance.random(300) * 25, strict=True
        )
    ]
    found = read(tmp_path, rows, taken(*bought), window=3 * DAY)
    hits = dict.fromkeys(sorted({row["user_id"] for row in rows}), 0)
    for row in rows:
        first = row["time"] // 10**6
        hits[row["user_id"]] += any(
            user == row["user_id"] and item in row["items"] and first <= round(START + day * DAY) <= first + 3 * DAY
            for user, item, day in bought
        )
    assert found.hits.tolist() == list(hits.values())
    assert found.hits.sum() > 20


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([impression("u", ["A"]), impression("v", ["A"])], {}, "impressions of one version alone"),
        ([impression("u", ["A"], assigned="asked")], {}, "no impression of an experiment"),
        ([impression("u", ["A"])], {"name": "3-vs-1"}, "no experiment '3-vs-1'; there are: 2-vs-1"),
        (
            [impression("u", ["A"]), impression("v", ["A"], bundle="another"), impression("w", ["A"], **OTHER)],
            {},
            "several bundles as champion",
        ),
    ],
)
def test_a_log_without_two_versions_is_refused(tmp_path, rows, options, said):
    with pytest.raises(UnigrecError, match=said):
        read(tmp_path, rows, taken(("u", "A", 0.1)), **options)


def test_a_folder_that_is_no_log_is_refused(tmp_path):
    empty = pa.table({"user_id": ["u"], "item_id": ["A"], "timestamp": pa.array([1], pa.int64())})
    with pytest.raises(UnigrecError, match="no such folder"):
        read_experiment(tmp_path / "none", empty, DAY)
    with pytest.raises(UnigrecError, match="no file of impressions"):
        read_experiment(tmp_path, empty, DAY)
    (tmp_path / "impressions-1.parquet").write_bytes(b"half a file")
    with pytest.raises(UnigrecError, match="cannot be read"):
        read_experiment(tmp_path, empty, DAY)
