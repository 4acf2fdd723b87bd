"""Files and folders of parts: their order, the columns that folders name, and tables with a log of their own."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest

from support.source_folder import MOMENT, folder_of, load
from unigrec.base.errors import UnigrecError


def test_a_folder_of_parquet_parts_is_read_in_the_order_of_their_names(tmp_path):
    folder_of(tmp_path)
    (tmp_path / "interactions.parquet").unlink()
    parts = tmp_path / "interactions.parquet"
    parts.mkdir()
    for number in (1, 0):
        part = pa.table({"user_id": [f"u{number}"], "item_id": ["a"], "timestamp": [number]})
        pq.write_table(part, parts / f"part-{number:05d}.parquet")
    (parts / "_SUCCESS").touch()
    source = load(tmp_path)
    assert source.interactions["user_id"].to_pylist() == ["u0", "u1"]
    assert [file["name"] for file in source.provenance["files"]][:2] == [
        "interactions.parquet/part-00000.parquet",
        "interactions.parquet/part-00001.parquet",
    ]


def parts_in(folder: Path, name: str, parts: dict[str, pa.Table | dict]) -> Path:
    """Write Parquet parts below a folder that is named as a file; a name may hold folders."""
    for part, table in parts.items():
        file = folder / name / part
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), file)
    return folder


def test_numbers_in_the_names_of_parts_count_as_numbers(tmp_path):
    folder_of(tmp_path)
    (tmp_path / "interactions.parquet").unlink()
    names = [f"part.{number}.parquet" for number in range(12)]
    days = [f"day={day}/data_0_{day % 3}_0.parquet" for day in (9, 10, 100)]
    parts = {name: {"user_id": [name], "item_id": ["a"], "timestamp": [5]} for name in (*names, *days)}
    source = load(parts_in(tmp_path, "interactions.parquet", parts))
    assert source.interactions["user_id"].to_pylist() == [*days, *names]


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_the_order_of_rows_over_several_large_parts_is_that_of_the_source(tmp_path, form):
    rows, whole = 40_000, tmp_path / f"interactions.{form}"
    whole.mkdir()
    for part in range(3):
        ids = [str(part * rows + row) for row in range(rows)]
        table = pa.table({"user_id": ids, "item_id": ["a"] * rows, "timestamp": ["7"] * rows})
        file = whole / f"part-{part}.{form}"
        if form == "parquet":
            pq.write_table(table, file, row_group_size=1000)
        elif form == "csv":
            pcsv.write_csv(table, file)
        else:
            file.write_text("".join(f'{{"user_id":{i},"item_id":"a","timestamp":7}}\n' for i in ids))
    (tmp_path / "items.csv").write_text("item_id,title\na,A\n")
    assert load(tmp_path).interactions["user_id"].to_pylist() == [str(row) for row in range(3 * rows)]


def test_what_folders_are_named_for_is_a_column_and_the_file_wins(tmp_path):
    folder_of(tmp_path, {"user_id": ["u"] * 3, "item_id": ["a", "b", "c"], "timestamp": [1, 2, 3]})
    (tmp_path / "items.parquet").unlink()
    parts = {
        "brand=Nord%2FSee/part-0.parquet": {"item_id": ["a"], "title": ["A"]},
        "brand=__HIVE_DEFAULT_PARTITION__/part-0.parquet": {"item_id": ["b"], "title": ["B"]},
        "brand=Kiro/part-0.parquet": {"item_id": ["c"], "title": ["C"], "brand": ["Kiro & sons"]},
    }
    items = load(parts_in(tmp_path, "items.parquet", parts)).items.to_pylist()
    assert {row["item_id"]: row["brand"] for row in items} == {"a": "Nord/See", "b": None, "c": "Kiro & sons"}


@pytest.mark.parametrize("packed", [False, True])
def test_folders_above_json_lines_name_columns_too_and_change_no_value(tmp_path, packed):
    """The folder that holds the data is named like a column as well: it adds none, and replaces none."""
    shop = tmp_path / "price=high"
    (shop / "items/brand=Nord").mkdir(parents=True)
    (shop / "interactions.csv").write_text("user_id,item_id,timestamp\nu,a,7\n")
    content = b'{"item_id": "a", "title": "A", "price": "low"}\n'
    file = shop / "items/brand=Nord/a.jsonl"
    if packed:
        file.with_name("a.jsonl.gz").write_bytes(gzip.compress(content))
    else:
        file.write_bytes(content)
    assert load(shop).items.to_pylist() == [{"item_id": "a", "title": "A", "price": "low", "brand": "Nord"}]


def test_json_lines_are_one_file_whatever_its_name_means_elsewhere(tmp_path):
    """A star is no wildcard, and an ending of packed files makes none."""
    for folder in ("export*", "exports"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "interactions.csv").write_text("user_id,item_id,timestamp\nu,a,7\n")
        (tmp_path / folder / "items.jsonl.gz").write_text(f'{{"item_id": "a", "title": "{folder}"}}\n')
    assert load(tmp_path / "export*").items.to_pylist() == [{"item_id": "a", "title": "export*"}]


def test_parts_may_differ_in_columns_that_nobody_reads(tmp_path):
    folder_of(tmp_path)
    (tmp_path / "items.parquet").unlink()
    (tmp_path / "interactions.parquet").unlink()
    items = [
        {"item_id": [1], "title": ["A"], "price": [1], "rank": [7], "brand": pa.nulls(1)},
        {"item_id": [2.0], "title": pa.array(["B"]).dictionary_encode(), "price": [1.5], "rank": ["none"]},
    ]
    log = [
        {"user_id": [1], "item_id": [1], "timestamp": pa.array([MOMENT], pa.timestamp("s", "UTC")), "price": ["x"]},
        {"user_id": [2], "item_id": [2], "timestamp": pa.array([MOMENT * 10**9], pa.timestamp("ns", "UTC"))},
    ]
    for name, tables in (("items", items), ("interactions", log)):
        parts_in(tmp_path, f"{name}.parquet", {f"{number}.parquet": table for number, table in enumerate(tables)})
    source = load(tmp_path)
    assert source.items.to_pydict() == {"item_id": ["1", "2"], "title": ["A", "B"], "brand": [None, None]}
    assert source.provenance["dropped_item_columns"] == ["price", "rank"]
    assert source.interactions["timestamp"].to_pylist() == [MOMENT, MOMENT]


@pytest.mark.parametrize(
    ("log", "what"),
    [
        ("_delta_log/00000000000000000000.json", "a Delta table"),
        ("metadata/00000-9f3c.metadata.json", "an Iceberg table"),
        (".hoodie/hoodie.properties", "a Hudi table"),
        ("a=1/.hoodie_partition_metadata", "part of a Hudi table"),
        ("_spark_metadata/0", "the output of a Spark stream"),
        ("delta_0000001_0000002_0000/part-0.parquet", "a transactional Hive table"),
    ],
)
def test_a_table_whose_log_says_which_files_are_live_is_refused(tmp_path, log, what):
    folder_of(tmp_path)
    (tmp_path / "interactions.parquet").rename(tmp_path / "part-0.parquet")
    (tmp_path / "interactions.parquet").mkdir()
    (tmp_path / "part-0.parquet").rename(tmp_path / "interactions.parquet/part-0.parquet")
    load(tmp_path)
    file = tmp_path / "interactions.parquet" / log
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")
    with pytest.raises(UnigrecError, match=rf"interactions\.parquet: is {what} .*Export it as plain Parquet"):
        load(tmp_path)


def test_files_that_databricks_removed_by_its_log_are_not_read_in_silence(tmp_path):
    folder_of(tmp_path)
    (tmp_path / "interactions.parquet").unlink()
    row = {"user_id": ["u"], "item_id": ["a"], "timestamp": [1]}
    parts_in(tmp_path, "interactions.parquet", {"part-0.parquet": row, "part-1.parquet": row})
    log = tmp_path / "interactions.parquet/_committed_42"
    log.write_text('{"added": ["part-1.parquet"], "removed": ["part-9.parquet"]}')
    assert load(tmp_path).interactions.num_rows == 2
    log.write_text('{"added": ["part-1.parquet"], "removed": ["part-0.parquet"]}')
    with pytest.raises(UnigrecError, match="is a folder of Databricks with removed files"):
        load(tmp_path)


def test_json_lines_keep_ids_as_they_are_written_and_join_lists(tmp_path):
    lines = [
        '{"user_id": 12345678901234567890123, "item_id": "007", "timestamp": 1318896000}',
        '{"user_id": "u", "item_id": 7, "timestamp": "2011-10-18T00:00:00Z", "more": {"a": 1}}',
    ]
    with gzip.open(tmp_path / "interactions.jsonl.gz", "wt") as file:
        file.write(lines[0] + "\n")
    (tmp_path / "items.ndjson").write_text(
        '{"item_id": "007", "title": ["x", ["y", null]], "price": 5}\n{"item_id": 7, "title": "z", "price": null}\n'
    )
    source = load(tmp_path)
    assert source.interactions["user_id"].to_pylist() == ["12345678901234567890123"]
    assert source.items.to_pydict() == {"item_id": ["007", "7"], "title": ["x | y", "z"]}
    (tmp_path / "interactions.jsonl.gz").unlink()
    (tmp_path / "interactions.json").write_text(f"[{lines[1]}]")
    assert load(tmp_path).interactions["timestamp"].to_pylist() == [MOMENT]
