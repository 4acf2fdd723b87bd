"""Prepare on Spark: the result of the local engine, row for row. Skipped without pyspark and a Java."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.spark import small_session
from unigrec.base.errors import UnigrecError
from unigrec.config.schema import PrepareParams
from unigrec.data.partitions import read_partitions
from unigrec.data.prepare import Prepared, prepare_tables
from unigrec.data.spark.prepare import prepare_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ANY_SIZE = PrepareParams(k_core=1, ties="given", max_user_interactions=0, min_users_after=1, min_items_after=1)
EVENTS = {"view": 0.0, "cart": 0.5, "buy": 1.0}
# In the order of bytes, not of UTF-16: U+FFFD is before U+1F600. And texts of missing values, which warn.
USERS = ["a", "A", "é", "e\u0301", "\ufffd", "\U0001f600", "", " ", "nan", "名", "a\x00b", "10", "9"]
ITEMS = ["x", "X", "ö", "\uffee", "\U00010000", "null", "i'%_", "7", "07", "y/z"]


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Iterator[Any]:
    with small_session(tmp_path_factory.mktemp("spark")) as made:
        yield made


def table_of(rows: list[tuple]) -> pa.Table:
    names = {"user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.int64(), "event": pa.string()}
    columns = zip(*rows, strict=True)
    return pa.table({name: pa.array(column, names[name]) for name, column in zip(names, columns, strict=False)})


def catalogue_of(interactions: pa.Table) -> pa.Table:
    ids = [*sorted(set(interactions["item_id"].to_pylist())), "never bought"]
    return pa.table({"item_id": ids, "title": [f"about {item}" for item in ids]})


def partitioned(folder: Path, table: pa.Table, parts: int = 3) -> Path:
    """Write the rows in their order as files of unequal sizes, some of them in folders of their own."""
    cuts = [table.num_rows * part * part // parts**2 for part in range(parts + 1)]
    for part, (low, high) in enumerate(pairwise(cuts)):
        place = folder / f"day={part}" if part % 2 else folder / f"day={part}" / "hour [1]"
        place.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(low, high - low), place / "rows of it.parquet", row_group_size=7)
    return folder


def assert_equal(one: Prepared, other: Prepared) -> None:
    assert one.stats == other.stats
    assert one.users.equals(other.users)
    assert one.catalogue.equals(other.catalogue)
    assert one.sequences.keys() == other.sequences.keys()
    for name, values in one.sequences.items():
        assert values.dtype == other.sequences[name].dtype
        np.testing.assert_array_equal(values, other.sequences[name])


def both(
    session: Any,
    folder: Path,
    table: pa.Table,
    params: PrepareParams,
    events: Any = None,
    gone: int = 0,
    **more: Any,
) -> str:
    """Compare the engines. Returns the error that both of them raise, or nothing. gone: items that are unknown."""
    items, scratch, share = catalogue_of(table).slice(gone), folder.parent / "scratch", 1.0 if gone else 0.0

    def on_spark() -> Prepared:
        return prepare_dataset(session, folder, items, params, events, scratch=scratch, max_unknown=share, **more)

    local, refused = None, ""
    try:
        local = prepare_tables(read_partitions(folder, bool(events)), items, params, events, share)
    except UnigrecError as error:
        refused = str(error)
    if local is None:
        with pytest.raises(UnigrecError, match=f"^{re.escape(refused)}$"):
            on_spark()
    else:
        assert_equal(on_spark(), local)
    assert list(scratch.iterdir()) == []
    return refused


rows = st.lists(
    st.tuples(st.sampled_from(USERS), st.sampled_from(ITEMS), st.integers(0, 5), st.sampled_from(list(EVENTS))),
    min_size=1,
    max_size=150,
)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=rows,
    k=st.integers(1, 4),
    ties=st.sampled_from(["given", "shuffled"]),
    cap=st.sampled_from([0, 4, 6]),
    with_events=st.booleans(),
    driver_rows=st.sampled_from([0, 50, 1000]),
    gone=st.sampled_from([0, 0, 3]),
)
def test_both_engines_agree_on_any_log(session, tmp_path_factory, rows, k, ties, cap, with_events, driver_rows, gone):
    """Few users, items and times: ties, repeats and users with too few rows are in most logs."""
    folder = tmp_path_factory.mktemp("log")
    table = table_of(rows if with_events else [row[:3] for row in rows])
    params = ANY_SIZE.model_copy(update={"k_core": k, "ties": ties, "max_user_interactions": cap})
    partitioned(folder / "log", table)
    both(session, folder / "log", table, params, EVENTS if with_events else None, gone, driver_rows=driver_rows)


def test_a_log_of_some_size_with_all_settings(session, tmp_path):
    """Long tails, whole days, ids in no order: several rounds in Spark, and the rest of them on the driver."""
    random = np.random.default_rng(3)
    users = random.zipf(1.5, 6000) % 700
    items = random.zipf(1.4, 6000) % 300
    kinds = random.choice(list(EVENTS), 6000)
    rows = zip(users, items, random.integers(0, 40, 6000), kinds, strict=True)
    table = table_of([(f"u{u * 7919 % 1000}", f"i{i * 31 % 997}", int(t) * 86400, k) for u, i, t, k in rows])
    partitioned(tmp_path / "log", table, parts=5)
    params = ANY_SIZE.model_copy(update={"k_core": 5, "ties": "shuffled", "max_user_interactions": 200})
    for driver_rows, gone in ((0, 0), (10_000, 0), (0, 20), (10_000, 20)):
        assert both(session, tmp_path / "log", table, params, EVENTS, gone, driver_rows=driver_rows) == ""


def test_one_user_with_most_rows_and_one_item_in_half_of_them(session, tmp_path):
    rows = [("robot", f"i{n % 50}", n // 3) for n in range(4000)]
    rows += [(f"u{n % 60}", "voucher" if n % 2 else f"i{n % 50}", n) for n in range(1500)]
    partitioned(tmp_path / "log", table_of(rows))
    params = ANY_SIZE.model_copy(update={"k_core": 5, "max_user_interactions": 1000})
    assert both(session, tmp_path / "log", table_of(rows), params) == ""


@pytest.mark.parametrize("wrong", ["no user", "no time", "unknown item"])
def test_what_the_local_engine_refuses_is_refused_with_the_same_words(session, tmp_path, wrong):
    rows: list[tuple] = [(f"u{n % 4}", f"i{n % 5}", n) for n in range(20)]
    rows[3] = {"no user": (None, "i1", 1), "no time": ("u1", "i1", None), "unknown item": ("u1", "gone", 1)}[wrong]
    partitioned(tmp_path / "log", table_of(rows))
    items = pa.table({"item_id": [f"i{n}" for n in range(5)]})
    with pytest.raises(UnigrecError) as local:
        prepare_tables(read_partitions(tmp_path / "log"), items, ANY_SIZE)
    with pytest.raises(UnigrecError) as on_spark:
        prepare_dataset(session, tmp_path / "log", items, ANY_SIZE, scratch=tmp_path / "scratch")
    assert str(on_spark.value) == str(local.value)


def test_a_damaged_page_is_an_error_that_names_the_file(session, tmp_path):
    table = table_of([(f"u{n % 40}", f"i{n % 50}", n) for n in range(2000)])
    (tmp_path / "log").mkdir()
    for part in range(3):
        rows = table.slice(part * 600, 600)
        pq.write_table(rows, tmp_path / "log" / f"{part}.parquet", compression="none", write_page_checksum=True)
    damaged = tmp_path / "log" / "1.parquet"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 3] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(UnigrecError, match=r"nothing was written.*1\.parquet"):
        prepare_dataset(session, tmp_path / "log", catalogue_of(table), ANY_SIZE, scratch=tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []
