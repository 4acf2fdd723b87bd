"""Validate on Spark: the result of the local engine, word for word. Skipped without pyspark and a Java."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.project import PARAMS_FILE
from support.spark import small_session
from unigrec.base.errors import InvalidDataError, UnigrecError
from unigrec.config.read import load_params
from unigrec.data.partitions import read_partitions
from unigrec.data.spark.validate import WHITE_SPACE, checked_on_spark
from unigrec.data.validation.suite import allowed_times, judge, validate_tables

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EVENTS = {"view": 0.0, "buy": 1.0}
TEXTS = ["title"]
USERS = ["a", "é", "\ufffd", "\U0001f600", "nan", "10", "9", None, "", " \u3000\x1f"]
ITEMS = ["x", "\U00010000", "i'%_", "7", "gone", None, "\t"]
TIMES = [-1, 0, 5, 6, 2**40, None]


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Iterator[Any]:
    with small_session(tmp_path_factory.mktemp("spark")) as made:
        yield made


@pytest.fixture(scope="module")
def validation():
    """Bounds that good rows meet."""
    bounds = {"min_users": 2, "min_items": 2, "min_interactions": 4, "min_timestamp": 0, "max_timestamp": 2**32}
    return load_params(Path(PARAMS_FILE)).validation.model_copy(update=bounds)


def both(
    session: Any, folder: Path, log: pa.Table, items: pa.Table, validation: Any, **more: Any
) -> tuple[str, dict[str, str]]:
    """Compare result, page, error and `validated.json` of the engines. Returns the error and the texts of the files."""
    events, k_core = more.pop("events", None), more.pop("k_core", 2)
    found: list[tuple[str, dict[str, str]]] = []
    (folder / "log").mkdir(parents=True)
    for number, part in enumerate((log.slice(0, log.num_rows // 3), log.slice(log.num_rows // 3))):
        pq.write_table(part, folder / f"log/{number}.parquet", row_group_size=5)
    for engine in ("local", "spark"):
        about = {"reference": None, "drift": "no snapshot", "data": "a test", "folder": folder / "out"}
        about["validated"] = folder / "validated.json"
        said = ""
        try:
            if engine == "local":
                table = read_partitions(folder / "log", bool(events))
                validate_tables(table, items, validation, TEXTS, k_core, **about)
            else:
                arguments = (session, folder / "log", items, TEXTS, k_core, allowed_times(validation), events)
                with checked_on_spark(*arguments, scratch=folder / "scratch", **more) as tables:
                    judge(tables, validation, TEXTS, k_core, **about)
        except InvalidDataError as error:
            said = str(error)
        written = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".html"))
        found.append((said, {path.name: path.read_text(encoding="utf-8") for path in written}))
        for path in written:
            path.unlink()
    assert found[1] == found[0]
    assert not list((folder / "scratch").iterdir())
    return found[0]


def log_of(rows: list[tuple]) -> pa.Table:
    names = {"user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.int64(), "event": pa.string()}
    return pa.table(
        {name: pa.array(column, names[name]) for name, column in zip(names, zip(*rows, strict=True), strict=False)}
    )


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(*map(st.sampled_from, (USERS, ITEMS, TIMES, list(EVENTS)))), min_size=1, max_size=60),
    k_core=st.integers(1, 3),
    with_events=st.booleans(),
    driver_rows=st.sampled_from([0, 1000]),
)
def test_both_engines_say_the_same_of_any_log(
    session, tmp_path_factory, validation, rows, k_core, with_events, driver_rows
):
    """Blank and missing values, unknown items, repeats, times that cannot be: most are in each log."""
    folder, rows = tmp_path_factory.mktemp("any"), [("a", "x", 5, "buy"), *rows]  # a column without values has no type
    log = log_of(rows if with_events else [row[:3] for row in rows])
    items = pa.table({"item_id": [*ITEMS[:4], "7", None], "title": ["t", None, " ", "x", "y", "z"]})
    events = EVENTS if with_events else None
    both(session, folder, log, items, validation, k_core=k_core, events=events, driver_rows=driver_rows)


def test_good_data_passes_and_says_which_data_that_was(session, tmp_path, validation):
    rows = [(f"u{n % 5}", f"i{n % 4}", n) for n in range(20)]
    items = pa.table({"item_id": [f"i{n}" for n in range(4)], "title": list("abcd")})
    said, written = both(session, tmp_path / "good", log_of(rows), items, validation)
    assert not said
    assert '"users": 5' in written["validated.json"]


def test_what_trim_takes_away_is_what_arrow_takes_away():
    import pyarrow.compute as pc

    for code in (*range(1, 0xD800), *range(0xE000, 0x11000), 0xE0020, 0x1F600):
        assert (pc.utf8_trim_whitespace(chr(code)).as_py() == "") == (chr(code) in WHITE_SPACE), hex(code)


@pytest.mark.parametrize("damage", ["cut off", "other columns"])
def test_a_bad_partition_is_an_error_that_names_it(session, tmp_path, validation, damage):
    (tmp_path / "log").mkdir()
    for name in "ab":
        pq.write_table(log_of([("u", "i", n) for n in range(50)]), tmp_path / f"log/{name}.parquet")
    bad = tmp_path / "log/b.parquet"
    if damage == "cut off":
        bad.write_bytes(bad.read_bytes()[:-20])
    else:
        pq.write_table(pa.table({"user_id": [1], "item_id": ["i"], "timestamp": [1]}), bad)
    items = pa.table({"item_id": ["i"], "title": ["t"]})
    with (
        pytest.raises(UnigrecError, match=r"b\.parquet") as raised,
        checked_on_spark(session, tmp_path / "log", items, TEXTS, 2, (0, 9), scratch=tmp_path / "scratch"),
    ):
        pass
    assert raised.value.exit_code == 2
