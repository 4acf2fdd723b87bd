"""Every expectation is broken once, by a table that breaks nothing else, and is named with count and examples."""

import json
import shutil
import subprocess
import sys
import time

import pyarrow as pa
import pytest

from support.project import PARAMS_FILE
from unigrec.base import files
from unigrec.base.errors import EXIT_INVALID_DATA, InvalidDataError, UnigrecError
from unigrec.base.paths import Artifacts
from unigrec.config.schema import PreviousParams, ValidateParams
from unigrec.data.drift import Drift, measure_drift
from unigrec.data.validation.suite import Check, _run, validate_tables

USERS, ITEMS = 12, 6
PARAMS = ValidateParams(
    min_users=10,
    min_items=5,
    min_interactions=50,
    min_timestamp=0,
    max_timestamp=4_102_444_800,
    max_duplicate_share=0.02,
    min_text_coverage=0.8,
    max_single_time_user_share=0.5,
    max_row_change=0.5,
    previous={name: {"warn": 0.25, "stop": 0.5} for name in PreviousParams.model_fields},
)
FIRST = "the first snapshot"
TEXT_COLUMNS = ("title", "brand")


@pytest.fixture(autouse=True)
def _empty_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def good_tables() -> tuple[dict[str, list], dict[str, list]]:
    """Columns of 72 interactions (12 users with 6 items each) and 6 items."""
    pairs = [(user, item) for user in range(USERS) for item in range(ITEMS)]
    interactions = {
        "user_id": [f"u{user}" for user, _ in pairs],
        "item_id": [f"i{item}" for _, item in pairs],
        "timestamp": [1_000_000 + row for row in range(len(pairs))],
    }
    items = {"item_id": [f"i{item}" for item in range(ITEMS)], "title": ["a lamp"] * ITEMS, "brand": [None] * ITEMS}
    return interactions, items


def run(
    interactions: dict[str, list],
    items: dict[str, list],
    reference: dict[str, int] | None = None,
    drift: Drift | str = FIRST,
) -> dict:
    return check(pa.table(interactions), pa.table(items), reference=reference, drift=drift)


def check(
    interactions: pa.Table,
    items: pa.Table,
    text_columns: tuple[str, ...] = TEXT_COLUMNS,
    reference: dict[str, int] | None = None,
    drift: Drift | str = FIRST,
    params: ValidateParams = PARAMS,
) -> dict:
    return validate_tables(
        interactions,
        items,
        params,
        text_columns,
        k_core=3,
        reference=reference,
        drift=drift,
        folder=Artifacts().folder("validate"),
        validated=Artifacts().validated,
        data="a test",
    )


def run_bad(
    interactions: dict[str, list], items: dict[str, list], reference=None, drift: Drift | str = FIRST
) -> tuple[list[dict], str]:
    """The failed expectations as result.json holds them, and the error's text."""
    with pytest.raises(InvalidDataError) as caught:
        run(interactions, items, reference, drift)
    assert caught.value.exit_code == EXIT_INVALID_DATA
    assert not Artifacts().validated.exists()
    assert (Artifacts().data_docs / "index.html").is_file()
    result = json.loads(Artifacts().validation.read_text())
    assert result["passed"] is False
    failed = [finding for finding in result["expectations"] if finding["success"] is False]
    for finding in failed:
        assert finding["name"] in str(caught.value)
        assert all(json.dumps(example, ensure_ascii=False) in str(caught.value) for example in finding["examples"])
    return failed, str(caught.value)


def test_good_tables_pass_and_leave_a_note_that_says_which_data_passed():
    result = run(*good_tables())
    assert result["passed"]
    assert result == json.loads(Artifacts().validation.read_text())
    unanswered = [finding for finding in result["expectations"] if finding["success"] is not True]
    drift = [finding["reason"] for finding in unanswered if finding["table"] == "snapshot"]
    assert drift == [f"not checked: {FIRST}"] * len(PreviousParams.model_fields)
    assert [finding["name"] for finding in unanswered if finding["table"] != "snapshot"] == [
        f"the number of {table} is within 50 % of the last registered run's" for table in result["rows"]
    ]
    note = Artifacts().validated.read_bytes()
    assert json.loads(note)["rows"] == {"interactions": 72, "items": 6, "users": 12}

    run(*good_tables())
    assert Artifacts().validated.read_bytes() == note

    interactions, items = good_tables()
    interactions["timestamp"][0] += 1
    run(interactions, items)
    assert Artifacts().validated.read_bytes() != note


def shown(failed: list[dict]) -> list[tuple]:
    return [(finding["table"], finding["name"], finding["unexpected_count"], finding["examples"]) for finding in failed]


def test_bad_interactions_are_counted_and_shown():
    future = int(time.time()) + 3 * 86_400
    interactions, items = good_tables()
    interactions["user_id"][3] = None
    interactions["item_id"][4] = "  "
    interactions["timestamp"][5] = None
    interactions["item_id"][6] = "gone"
    interactions["timestamp"][7:9] = [-5, future]
    for values in interactions.values():
        values += values[20:22]
    failed, message = run_bad(interactions, items)
    assert shown(failed) == [
        ("interactions", "no user_id is null or blank", 1, ["row 3"]),
        ("interactions", "no item_id is null or blank", 1, ["row 4"]),
        ("interactions", "no timestamp is null", 1, ["row 5"]),
        ("interactions", "every interaction's item is in the items table", 1, ["gone"]),
        (
            "interactions",
            "at most 2 % of the interactions repeat an earlier one (same user, item and time)",
            2,
            ["u3 | i2 | 1000020", "u3 | i3 | 1000021"],
        ),
        (
            "interactions",
            "timestamps are unix seconds from 0 to 4102444800, at most a day ahead of the clock",
            2,
            [-5, future],
        ),
    ]
    assert failed[0]["unexpected_share"] == pytest.approx(1 / 74)
    assert "broken by 1 of 74 rows (1.351 %)" in message
    for threshold in ("max_duplicate_share", "min_timestamp", "max_timestamp"):
        assert f"validate.{threshold}" in message


def test_a_share_of_the_interactions_may_be_of_unknown_items():
    interactions, items = good_tables()
    interactions["item_id"][:2] = ["gone", "gone"]
    table, catalogue = pa.table(interactions), pa.table(items)
    with pytest.raises(InvalidDataError, match=r"validate\.max_unknown_item_share"):
        check(table, catalogue)
    assert check(table, catalogue, params=PARAMS.model_copy(update={"max_unknown_item_share": 0.03}))["passed"]
    with pytest.raises(InvalidDataError, match="at most 2 % of the interactions are of items that the items table"):
        check(table, catalogue, params=PARAMS.model_copy(update={"max_unknown_item_share": 0.02}))


def test_bad_items_are_counted_and_shown():
    interactions, items = good_tables()
    items["item_id"] += [None, "i2"]
    items["title"] = [None, " ", *["a lamp"] * 6]
    items["brand"] += [None, None]
    failed, message = run_bad(interactions, items)
    assert shown(failed) == [
        ("items", "no item_id is null or blank", 1, ["row 6"]),
        ("items", "no item_id is there twice", 2, ["i2"]),
        ("items", "at least 80 % of the items have some text in title, brand", 2, ["i0", "i1"]),
    ]
    assert "validate.min_text_coverage" in message


def test_bad_rows_within_the_threshold_pass():
    interactions, items = good_tables()
    for values in interactions.values():
        values.append(values[0])  # one repeated interaction of 73 is below 2 %
    items["title"][0] = None  # one item of six without text: above 80 % still have some
    assert run(interactions, items)["passed"]


def test_a_missing_column_is_named_and_what_needs_it_is_not_guessed():
    interactions, items = good_tables()
    del interactions["timestamp"]
    failed, message = run_bad(interactions, items)
    assert [finding["name"] for finding in failed] == ["there is a column timestamp"]
    assert 'found "missing"' in message
    reasons = [finding["reason"] for finding in json.loads(Artifacts().validation.read_text())["expectations"]]
    assert "not checked: interactions.timestamp is missing or has the wrong type" in reasons


def test_timestamps_as_strings_are_a_wrong_type():
    interactions, items = good_tables()
    interactions["timestamp"] = [f"2014-01-{1 + row % 28:02}" for row in range(72)]
    failed, message = run_bad(interactions, items)
    assert [finding["name"] for finding in failed] == ["timestamp holds whole numbers"]
    assert 'found "str"' in message


def test_tables_without_any_text_column():
    interactions, items = good_tables()
    failed, message = run_bad(interactions, {"item_id": items["item_id"], "price": [1.5] * ITEMS})
    assert [finding["name"].split(" (")[0] for finding in failed] == [
        "there is at least one text column",
        "at least 80 % of the items have some text in title, brand",
    ]
    assert "embed.text_columns" in message


def test_without_text_columns_nothing_is_asked_of_texts():
    interactions, items = good_tables()
    result = check(pa.table(interactions), pa.table({"item_id": items["item_id"]}), text_columns=())
    reasons = [finding["reason"] for finding in result["expectations"]]
    assert reasons.count("not checked: embed.text_columns is empty") == 2


def test_all_interactions_of_one_user():
    interactions, items = good_tables()
    interactions["user_id"] = ["u0"] * 72
    failed, message = run_bad(interactions, items)
    assert "there are at least 10 users; found 1; set by validate.min_users" in message
    assert ("users", "there are at least 10 users") in [(finding["table"], finding["name"]) for finding in failed]


def test_too_few_items_and_interactions():
    interactions, items = good_tables()
    few = {name: values[:4] for name, values in items.items()}
    rows = [row for row in range(72) if interactions["item_id"][row] in few["item_id"]]
    failed, message = run_bad({name: [values[row] for row in rows] for name, values in interactions.items()}, few)
    assert [finding["name"] for finding in failed] == [
        "there are at least 50 interactions",
        "there are at least 5 items",
    ]
    assert [finding["observed"] for finding in failed] == [48, 4]
    assert "validate.min_interactions" in message
    assert "validate.min_items" in message


def test_nothing_left_after_k_core():
    interactions, items = good_tables()
    interactions["user_id"] = [f"u{row}" for row in range(72)]  # one interaction a user
    failed, message = run_bad(interactions, items)
    assert {finding["table"] for finding in failed} == {"users", "items"}
    assert all(finding["name"].startswith("the 3-core has") for finding in failed)
    assert all(finding["observed"] == 0 for finding in failed)
    assert "prepare.k_core" in message


def test_empty_tables_fail_without_a_crash():
    schema = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64())])
    items = pa.table({"item_id": pa.array([], pa.string()), "title": pa.array([], pa.string())})
    with pytest.raises(InvalidDataError, match="there are at least 50 interactions; found 0"):
        check(schema.empty_table(), items)
    with pytest.raises(InvalidDataError, match="there is a column user_id"):
        check(pa.table({}), pa.table({}))


def test_one_time_per_user_is_a_warning_that_stops_nothing(caplog):
    interactions, items = good_tables()
    interactions["timestamp"] = [1_000_000 + row // ITEMS for row in range(72)]
    result = run(interactions, items)
    failed = [finding for finding in result["expectations"] if finding["success"] is False]
    assert [(finding["severity"], finding["unexpected_count"]) for finding in failed] == [("warning", USERS)]
    assert result["passed"]
    assert Artifacts().validated.exists()
    assert "validate.max_single_time_user_share" in caplog.text


def test_row_counts_against_the_last_registered_run():
    assert run(*good_tables(), {"interactions": 48, "items": 12, "users": 24})["passed"]  # half more, half, half
    failed, message = run_bad(*good_tables(), {"interactions": 47, "items": 13, "users": 12})
    assert [(finding["table"], finding["observed"]) for finding in failed] == [("interactions", 72), ("items", 6)]
    assert "run's, 47; found 72; set by validate.max_row_change" in message


def test_where_a_snapshot_comes_before_its_bounds_replace_those_of_the_registered_run():
    tables = good_tables()
    drift = drifted((pa.table(tables[0]), pa.table(tables[1])), *tables)
    result = run(*tables, {"interactions": 10, "items": 1, "users": 1}, drift=drift)
    about = [finding for finding in result["expectations"] if finding["threshold"] == "validate.max_row_change"]
    assert [finding["success"] for finding in about] == [None] * 3
    assert {finding["reason"] for finding in about} == {"not checked: the snapshot before it is compared instead"}


def test_drift_between_the_thresholds_warns_and_beyond_them_stops(caplog):
    interactions, items = good_tables()
    before = pa.table(interactions), pa.table(items)
    others = {f"u{user}": f"v{user}" for user in range(4)}  # a third
    interactions["user_id"] = [others.get(user, user) for user in interactions["user_id"]]
    result = run(interactions, items, drift=drifted(before, interactions, items))
    failed = [finding for finding in result["expectations"] if finding["success"] is False]
    assert [(finding["severity"], finding["threshold"]) for finding in failed] == [
        ("warning", "validate.previous.new_users.warn"),
        ("warning", "validate.previous.lost_users.warn"),
    ]
    assert result["passed"]
    assert "snapshot" not in result["rows"]
    assert "at most 25 % of the users before are gone (4 of 12; now: 12 users)" in caplog.text

    interactions, items = good_tables()
    interactions["user_id"] = [f"shop-{user}" for user in interactions["user_id"]]
    failed, message = run_bad(interactions, items, drift=drifted(before, interactions, items))
    assert [(finding["severity"], finding["observed"], finding["threshold"]) for finding in failed] == [
        ("critical", 1.0, "validate.previous.new_users.stop"),
        ("critical", 1.0, "validate.previous.lost_users.stop"),
    ]
    assert (
        "at most 50 % of the users are new (12 of 12; before: 12 users); if not: user ids in another form (prefix, "
        "hash, leading zeros); found 1.0; set by validate.previous.new_users.stop" in message
    )


def drifted(before: tuple[pa.Table, pa.Table], interactions: dict, items: dict) -> Drift:
    return measure_drift(before, (pa.table(interactions), pa.table(items)), TEXT_COLUMNS)


def test_a_reference_of_another_shape_is_an_error():
    with pytest.raises(UnigrecError, match=r"state/registered/reference.json: 'items' should be a number"):
        run(*good_tables(), {"interactions": 72, "users": 12})


def test_odd_ids_are_fine():
    interactions, items = good_tables()
    odd = {"i0": "a b", "i1": "a,b", "i2": "Лампа", "i3": "灯 | 1", "i4": "<b>", "i5": "'"}
    interactions["item_id"] = [odd[item] for item in interactions["item_id"]]
    items["item_id"] = list(odd.values())
    interactions["user_id"] = [f"用户, {user}" for user in interactions["user_id"]]
    assert run(interactions, items)["passed"]


def test_kinds_of_text_that_arrow_tells_apart_are_one_kind():
    interactions, items = (pa.table(columns) for columns in good_tables())
    kinds = pa.schema([("item_id", pa.large_string()), ("title", pa.string_view()), ("brand", pa.null())])
    assert check(interactions, items.cast(kinds))["passed"]


def test_an_expectation_that_raises_is_reported_with_its_reason():
    import pandas as pd

    asked = Check("users", "a name", "ExpectColumnSumToBeBetween", {"column": "nowhere", "min_value": 1})
    (finding,) = _run({"users": pd.DataFrame({"user_id": ["u"]})}, [asked])
    assert finding["success"] is False
    assert "nowhere" in finding["reason"]


@pytest.mark.slow  # tests/faults/test_data_battery.py asks the same of a command in its own process
def test_the_command_ends_with_exit_code_3_and_names_the_expectation(tmp_path):
    shutil.copy(PARAMS_FILE, tmp_path)
    interactions, items = good_tables()
    interactions["item_id"][0] = "gone, too"
    files.write_table(Artifacts().interactions, pa.table(interactions))
    files.write_table(Artifacts().items, pa.table(items))
    files.write_json(Artifacts().source, {"source": "folder"})
    files.write_json(Artifacts().validated, {"left": "by an earlier run"})
    command = [sys.executable, "-m", "unigrec.cli", "stage", "validate"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == EXIT_INVALID_DATA
    assert "error: the data breaks" in done.stderr
    assert (
        'every interaction\'s item is in the items table; broken by 1 of 72 rows (1.389 %); such as "gone, too"'
        in done.stderr
    )
    assert "artifacts/validate/data_docs/index.html" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Artifacts().validated.exists()
