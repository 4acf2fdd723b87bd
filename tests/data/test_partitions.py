"""Interactions in partitions: their order, and what is refused before anything is read."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unigrec.base.errors import UnigrecError
from unigrec.data.partitions import partitions_of, read_partitions

TABLE = pa.table({"user_id": ["u", "v"], "item_id": ["a", "b"], "timestamp": pa.array([1, 2], pa.int64())})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "log" / "day=2").mkdir(parents=True)
    for name in ("b.parquet", "a.parquet", "day=2/c.parquet"):
        pq.write_table(TABLE, tmp_path / "log" / name)
    return tmp_path / "log"


def test_rows_have_the_order_of_the_paths_and_ids_the_same_type(folder):
    other = pa.table(
        {
            "timestamp": pa.array([7], pa.int64()),
            "more": [0.5],
            "item_id": pa.array(["z"]).dictionary_encode(),
            "user_id": pa.array(["w"], pa.large_string()),
        }
    )
    pq.write_table(other, folder / "a.parquet")
    (folder / "_SUCCESS").touch()
    (folder / ".b.parquet.crc").write_text("hidden")
    assert [(part.path.name, part.rows) for part in partitions_of(folder)] == [
        ("a.parquet", 1),
        ("b.parquet", 2),
        ("c.parquet", 2),
    ]
    found = read_partitions(folder)
    assert found["user_id"].to_pylist() == ["w", "u", "v", "u", "v"]
    assert found.schema == TABLE.schema


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: (f / "b.parquet").write_bytes((f / "b.parquet").read_bytes()[:-9]), "b.parquet: damaged"),
        (lambda f: (f / "b.parquet").write_bytes(b""), "b.parquet: damaged"),
        (lambda f: pq.write_table(TABLE.drop_columns("item_id"), f / "b.parquet"), "b.parquet: .*'item_id', and has 0"),
        (
            lambda f: pq.write_table(
                TABLE.set_column(2, "timestamp", pa.array([1, 2], pa.timestamp("s"))), f / "b.parquet"
            ),
            "b.parquet: timestamp is timestamp.*must be int64 in every partition",
        ),
        (lambda f: (f / "more.csv").write_text("user_id"), "more.csv: not named"),
        (lambda f: (f / "_temporary").mkdir(), "its writer did not finish"),
        (lambda f: [file.unlink() for file in f.rglob("*.parquet")], "no .*parquet below"),
        (lambda f: (f / "b.parquet").rename(f.parent / "b"), r"b.parquet: this partition is missing"),
    ],
    ids=["truncated", "empty", "without a column", "another type", "CSV", "unfinished", "nothing", "missing"],
)
def test_a_partition_that_is_not_as_the_others_is_named(folder, change, says):
    footers = []
    for name in ("a.parquet", "b.parquet"):
        footers.append(pq.read_metadata(folder / name))
        footers[-1].set_file_path(name)
    pq.write_metadata(TABLE.schema, folder / "_metadata", metadata_collector=footers)
    assert len(partitions_of(folder)) == 3
    change(folder)
    with pytest.raises(UnigrecError, match=says):
        partitions_of(folder)


def test_events_are_asked_for_where_params_name_them(folder):
    with pytest.raises(UnigrecError, match=r"a\.parquet: it needs one column 'event'"):
        read_partitions(folder, with_events=True)
