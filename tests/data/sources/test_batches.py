"""Interactions read a batch of rows at a time: the rows of `read_interactions`, and what cannot be read so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.project import PARAMS_FILE
from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.config.read import load_params
from unigrec.data.sources.batches import interaction_batches
from unigrec.data.sources.datasets import parts_of, read_part
from unigrec.data.sources.folder import read_interactions
from unigrec.data.sources.tables import Columns, interactions_of

PARAMS = load_params(Path(PARAMS_FILE)).ingest
ROWS = {"user_id": [1, 2, 3, None, 5] * 4, "item_id": ["a", "b", "", "d", "e"] * 4, "timestamp": range(20)}


def in_batches(path: Path, rows: int = 3, **changes) -> tuple[pa.Table, list[str]]:
    notes: list[str] = []
    read = list(interaction_batches(path, PARAMS.model_copy(update=changes), rows, notes))
    assert all(table.num_rows <= rows for table in read) or path.suffix != ".parquet"
    return pa.concat_tables(read), notes


@pytest.mark.parametrize("unit", [1, 1000])
def test_the_rows_of_batches_are_those_of_the_file(tmp_path, unit):
    times = [1_700_000_000 * unit + unit * row for row in ROWS["timestamp"]]
    for name, part in (("p-1", slice(0, 12)), ("p-2", slice(12, 20))):
        columns = {key: list(values)[part] for key, values in (ROWS | {"timestamp": times}).items()}
        files.write_table(tmp_path / f"log/{name}.parquet", pa.table(columns))
    whole, notes = read_interactions(tmp_path / "log", PARAMS)
    found, told = in_batches(tmp_path / "log")
    assert found.equals(whole)
    assert len(told) == len(notes) == (unit > 1)
    condition = {"where": "item_id = 'a' AND timestamp > 0"}
    chosen, _ = read_interactions(tmp_path / "log", PARAMS.model_copy(update=condition))
    assert in_batches(tmp_path / "log", **condition)[0].equals(chosen)


SECONDS = [0, 5, 1_700_000_000, 1_893_456_000]
TIMES = {
    "seconds": pa.array(SECONDS),
    "milliseconds, the first ones of 1971": pa.array([31_536_000_000 + 1, *(1000 * s for s in SECONDS)]),
    "microseconds in small integers": pa.array([1_700_000_000_000_000, 0, 3]),
    "days as numbers": pa.array([20230101, 20230102, 20230228]),
    "numbers like days, and one that is none": pa.array([20230101, 20230102, 20230299]),
    "two units": pa.array([1_700_000_000, 1_700_000_000_000]),
    "floats": pa.array([0.5, 1_700_000_000.25, float("nan"), 7.0]),
    "days of a spreadsheet": pa.array([44927.5, 44928.0]),
    "texts of milliseconds": pa.array(["1700000000000", "0", " ", "1700000000001"]),
    "texts of numbers": pa.array(["1700000000", "1.5e9", "+3"]),
    "day or month": pa.array(["01/02/2023", "03/02/2023", "25/02/2023"]),
    "day and month": pa.array(["01/25/2023", "25/01/2023"]),
    "two readings": pa.array(["01/02/2023", "03/02/2023"]),
    "texts with and without a clock": pa.array(["2023-01-01", "2023-01-01 10:00", "20230101T101112"]),
    "texts of a zone": pa.array(["2023-01-01T10:00:00Z", "2023-01-01T10:00:00+02:00"]),
    "numbers and texts": pa.array(["2023-01-01", "17"]),
    "moments": pa.array([1, 2], pa.timestamp("ms")),
    "days": pa.array([1, 2], pa.date32()),
    "decimals": pa.array([1_700_000_000_000, 2], pa.decimal128(20, 3)),
    "categories": pa.array(["2023-01-01", "2023-01-02 10:00"]).dictionary_encode(),
    "nothing": pa.nulls(2),
}  # fmt: skip
CODES = {
    "numbers": ["5", "12", " 7 ", ""],
    "a word": ["5", "12", "x"],
    "a fraction": ["5", "12", "1.5"],
    "a long one": ["5", "12", "00000000000000000000000000000003", "12345678901234567890"],
    "a zero in front": ["5", "012", "12", ""],
    "codes": ["007", "070", "700", ""],
    "a code and more": ["07", "12", "100", ""],
    "codes of two lengths": ["1007", "01007", "8001"],
    "blanks": ["", " "],
}


def said(read: Callable[[], tuple[pa.Table, list[str]]]) -> tuple[pa.Table | None, list[str] | str]:
    """Rows and remarks, or what kind of error there was."""
    try:
        return read()
    except UnigrecError as error:
        return None, re.sub(r"; its columns.*|[\d.]+|'.*'", "", str(error))[-60:]


def check_batches(folder: Path, table: pa.Table, cut: int, where: bool) -> None:
    """Compare the rows, remarks and kind of error of batches with those of all rows at once."""
    for number, part in enumerate((table.slice(0, cut), table.slice(cut))):
        if part.num_rows:
            pq.write_table(part, folder / f"{number}.parquet")
    changes = {"where": "code >= 7 OR code IS NULL", "min_rating": 2.0} if where else {}
    columns = PARAMS.columns.model_copy(update={"rating": "rating" if where else ""})
    ingest = PARAMS.model_copy(update=changes | {"columns": columns})

    def whole() -> tuple[pa.Table, list[str]]:
        notes: list[str] = []
        parts = [(part, read_part(part, lambda names: names, notes)) for part in parts_of(folder)]
        return interactions_of(parts, Columns.of(ingest), notes), notes

    def in_pieces() -> tuple[pa.Table, list[str]]:
        notes: list[str] = []
        return pa.concat_tables(interaction_batches(folder, ingest, 2, notes)), notes

    expected, found = said(whole), said(in_pieces)
    assert found[1] == expected[1]
    assert found[0] == expected[0] if found[0] is None else found[0].equals(expected[0])


def rows_of(times: pa.Array, codes: list[str | None], ratings: list[float | None]) -> pa.Table:
    users = [f"u{row}" for row in range(len(times))]
    columns = {"user_id": users, "item_id": ["a"] * len(times), "timestamp": pa.chunked_array([times])}
    return pa.table(columns | {"code": pa.array(codes, pa.string()), "rating": pa.array(ratings, pa.float64())})


@pytest.mark.parametrize("kind", sorted(TIMES))
def test_what_decides_on_the_times_may_be_in_the_last_batch(tmp_path, kind):
    times = pa.concat_arrays([TIMES[kind].slice(0, 1)] * 3 + [TIMES[kind]])
    check_batches(tmp_path, rows_of(times, [None] * len(times), [None] * len(times)), cut=2, where=False)


@pytest.mark.parametrize("kind", sorted(CODES))
def test_what_decides_on_a_condition_may_be_in_the_last_batch(tmp_path, kind):
    codes = [None, *CODES[kind][:1] * 3, *CODES[kind]]
    check_batches(tmp_path, rows_of(pa.array(range(len(codes))), codes, [3.0] * len(codes)), cut=1, where=True)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(sorted(TIMES)), codes=st.sampled_from(sorted(CODES)), where=st.booleans())
def test_what_decides_how_a_column_is_read_may_be_in_any_batch(tmp_path_factory, data, kind, codes, where):
    rows = data.draw(st.integers(1, 12))

    def drawn(values: list) -> list:
        return data.draw(st.lists(st.sampled_from([None, *values]), min_size=rows, max_size=rows))

    times = TIMES[kind].take(pa.array(drawn(list(range(len(TIMES[kind])))), pa.int64()))
    table = rows_of(times, drawn(CODES[codes]), drawn([1.0, 4.0]))
    check_batches(tmp_path_factory.mktemp("log"), table, data.draw(st.integers(1, rows)), where)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("timestamp >= (SELECT max(timestamp) FROM interactions) - 1", "cdgh"),
        ("user_id IN (SELECT user_id FROM interactions GROUP BY user_id HAVING count(*) > 2)", "abcefg"),
        ("row_number() OVER (PARTITION BY user_id ORDER BY timestamp) = 1 AND code = 1", "aeh"),
    ],
)
def test_a_condition_on_several_rows_sees_all_rows_of_a_file(tmp_path, where, expected):
    for number, (items, codes) in enumerate((("abcd", "1117"), ("efgh", "1221"))):
        columns = {"user_id": "uuuv", "item_id": items, "timestamp": range(4), "code": codes}
        files.write_table(tmp_path / f"{number}.parquet", pa.table({key: list(part) for key, part in columns.items()}))
    notes: list[str] = []
    read = list(interaction_batches(tmp_path, PARAMS.model_copy(update={"where": where}), 3, notes))
    assert "".join(pa.concat_tables(read)["item_id"].to_pylist()) == expected


def test_an_aggregate_is_no_condition_on_a_row(tmp_path):
    files.write_table(tmp_path / "log.parquet", pa.table({key: list(values) for key, values in ROWS.items()}))
    with pytest.raises(UnigrecError, match="has one answer for all rows; write a condition on each row"):
        in_batches(tmp_path / "log.parquet", where="max(timestamp) > 3")


def test_a_column_that_a_folder_names_is_there(tmp_path):
    for item in "ab":
        files.write_table(tmp_path / f"item_id={item}/p.parquet", pa.table({"user_id": ["u"], "timestamp": [1]}))
    assert in_batches(tmp_path)[0]["item_id"].to_pylist() == ["a", "b"]


def test_text_comes_a_file_at_a_time(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "u,a,1\n" * 5)
    assert in_batches(tmp_path / "log.csv")[0].num_rows == 5


def test_what_cannot_be_read_is_an_error(tmp_path):
    times = [1_700_000_000, 1_700_000_001, 1_700_000_000_000, 1_700_000_000_001]
    files.write_table(
        tmp_path / "units.parquet", pa.table({"user_id": ["u"] * 4, "item_id": list("abcd"), "timestamp": times})
    )
    with pytest.raises(UnigrecError, match=r"next to seconds: it looks like milliseconds or finer"):
        in_batches(tmp_path / "units.parquet", rows=2)
    files.write_table(tmp_path / "log/1.parquet", pa.table({"user_id": ["u"], "item_id": ["a"], "timestamp": [1]}))
    files.write_table(tmp_path / "log/2.parquet", pa.table({"user_id": ["u"], "item_id": [1], "timestamp": [1]}))
    with pytest.raises(UnigrecError, match="the parts differ in their columns: item_id is int64 and string"):
        in_batches(tmp_path / "log")
    files.write_table(
        tmp_path / "none.parquet",
        pa.table(
            {"user_id": pa.array([], pa.string())} | dict.fromkeys(("item_id", "timestamp"), pa.array([], pa.int64()))
        ),
    )
    with pytest.raises(UnigrecError, match="has a header but no rows"):
        in_batches(tmp_path / "none.parquet")
    with pytest.raises(UnigrecError, match=r"none of 4 rows is left by ingest\.where"):
        in_batches(tmp_path / "units.parquet", where="item_id = 'x'")
