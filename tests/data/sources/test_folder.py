"""The folder source: what is read as what, and what is refused with which words."""

from __future__ import annotations

import gzip
import hashlib
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest

from unigrec.base.errors import UnigrecError
from unigrec.config.schema import ColumnsParams, IngestParams, SampleParams
from unigrec.data.sources.load import load_source
from unigrec.data.sources.source import Source

SAMPLE = SampleParams(users=40, items=30, interactions=300)
MOMENT = 1_318_896_000


def load(folder: Path, text_columns: tuple[str, ...] = ("title", "brand"), **settings: Any) -> Source:
    values = {"source": "folder", "path": str(folder), "min_rating": 0.0, "sample": SAMPLE, **settings}
    return load_source(IngestParams(**values), seed=7, text_columns=text_columns)


def folder_of(
    tmp_path: Path, interactions: dict | pa.Table | None = None, items: dict | pa.Table | None = None
) -> Path:
    """A folder of Parquet files; what is not given is a small table that is in order."""
    if interactions is None:
        interactions = {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [MOMENT, MOMENT + 1]}
    if items is None:
        items = {"item_id": ["a", "b"], "title": ["A thing", None]}
    for name, table in (("interactions", interactions), ("items", items)):
        pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), tmp_path / f"{name}.parquet")
    return tmp_path


def with_times(tmp_path: Path, times: pa.Array | list) -> Path:
    ids = [str(number) for number in range(len(times))]
    return folder_of(tmp_path, pa.table({"user_id": ids, "item_id": ids, "timestamp": times}))


def times_of(tmp_path: Path, times: pa.Array | list) -> list:
    return load(with_times(tmp_path, times)).interactions["timestamp"].to_pylist()


def test_schema_is_the_canonical_one_and_other_columns_of_interactions_are_ignored(tmp_path):
    interactions = {"timestamp": [2, 1], "rating": [5.0, 1.0], "item_id": [10, 9], "user_id": ["v", "u"]}
    source = load(folder_of(tmp_path, interactions))
    assert source.interactions.schema == pa.schema(
        [("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64())]
    )
    assert source.interactions.to_pydict() == {"user_id": ["v", "u"], "item_id": ["10", "9"], "timestamp": [2, 1]}


def test_items_keep_texts_join_lists_and_drop_the_rest(tmp_path):
    items = pa.table(
        {
            "title": ["T", " "],
            "item_id": pa.array([1, 2], pa.int16()),
            "price": [1.5, None],
            "tags": [["x", None, "y"], None],
            "brand": pa.array(["b", "b"]).dictionary_encode(),
            "description": pa.nulls(2),
            "in_stock": [True, False],
        }
    )
    source = load(folder_of(tmp_path, items=items))
    assert source.items.to_pydict() == {
        "item_id": ["1", "2"],
        "title": ["T", None],
        "tags": ["x | y", None],
        "brand": ["b", "b"],
        "description": [None, None],
    }
    assert set(source.items.schema.types) == {pa.string()}
    assert source.provenance["dropped_item_columns"] == ["price", "in_stock"]


def test_rows_that_make_no_sense_pass_through_for_the_validation_to_judge(tmp_path):
    interactions = pa.table(
        {
            "user_id": ["u", None, "u", "u", ""],
            "item_id": ["a", "a", "a", "unknown", "a"],
            "timestamp": pa.array([-5, MOMENT, MOMENT, 4_200_000_000, None], pa.int64()),
        }
    )
    items = {"item_id": ["a", "a", None], "title": [None, "x", "y"]}
    source = load(folder_of(tmp_path, interactions, items))
    assert source.interactions["user_id"].to_pylist() == ["u", None, "u", "u", None]
    assert source.interactions["timestamp"].to_pylist() == [-5, MOMENT, MOMENT, 4_200_000_000, None]
    assert source.items["item_id"].to_pylist() == ["a", "a", None]


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([7, None, 1318], pa.int32()),
        pa.array([7.0, None, 1318.0], pa.float64()),
        pa.array([7.0, float("nan"), 1318.0], pa.float64()),
        pa.array(["7", None, "1318"], pa.large_string()),
        pa.array(["7", None, "1318"]).dictionary_encode(),
        pa.array([b"7", None, b"1318"], pa.binary()),
    ],
    ids=["integers", "floats", "nan", "large strings", "categories", "bytes"],
)
def test_ids_become_text_and_gaps_stay_gaps(tmp_path, ids):
    table = pa.table({"user_id": ids, "item_id": ids, "timestamp": [1, 2, 3]})
    assert load(folder_of(tmp_path, table)).interactions["user_id"].to_pylist() == ["7", None, "1318"]


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([1.5, 2.0], r"'user_id' holds 1\.5; write whole numbers"),
        ([float("inf"), 2.0], r"'user_id' holds inf; write whole numbers"),
        ([True, False], "'user_id' is of type bool; ids must be text or integers"),
        ([["a"], ["b"]], "'user_id' is of type list"),
        (pa.array([b"\xff\xfe", b"ok"], pa.binary()), "'user_id' holds bytes that are no UTF-8"),
    ],
)
def test_ids_that_are_none(tmp_path, ids, words):
    table = pa.table({"user_id": ids, "item_id": ["a", "b"], "timestamp": [1, 2]})
    with pytest.raises(UnigrecError, match=words):
        load(folder_of(tmp_path, table))


def test_ids_of_any_writing_survive_parquet_and_csv(tmp_path):
    ids = ["a b", "x,y", 'qu"ote', "товар", "用户", "😀", "007", "NA", "null", " padded "]
    table = pa.table({"user_id": ids, "item_id": ids, "timestamp": list(range(len(ids)))})
    items = pa.table({"item_id": ids, "title": ids})
    (tmp_path / "csv").mkdir()
    pcsv.write_csv(table, tmp_path / "csv" / "interactions.csv")
    pcsv.write_csv(items, tmp_path / "csv" / "items.csv")
    (tmp_path / "parquet").mkdir()
    for source in (load(tmp_path / "csv"), load(folder_of(tmp_path / "parquet", table, items))):
        assert source.interactions["user_id"].to_pylist() == ids
        assert source.items["item_id"].to_pylist() == ids


@pytest.mark.parametrize(
    "times",
    [
        pa.array([MOMENT, None], pa.int32()),
        pa.array([MOMENT, None], pa.uint64()),
        pa.array([float(MOMENT), float("nan")]),
        pa.array([datetime.fromtimestamp(MOMENT, UTC), None], pa.timestamp("ns", "UTC")),
        pa.array(
            [datetime.fromtimestamp(MOMENT, timezone(timedelta(hours=2))), None], pa.timestamp("ms", "Europe/Oslo")
        ),
        pa.array([datetime(2011, 10, 18), None], pa.timestamp("us")),
        pa.array([datetime(2011, 10, 18, microsecond=999_999), None], pa.timestamp("us")),
        pa.array([date(2011, 10, 18), None], pa.date32()),
        pa.array([date(2011, 10, 18), None], pa.date64()),
    ],
    ids=lambda array: str(array.type),
)
def test_times_become_unix_seconds(tmp_path, times):
    assert times_of(tmp_path, times) == [MOMENT, None]


def test_times_before_1970_round_down(tmp_path):
    before = pa.array([datetime(1969, 12, 31, 23, 59, 58, 500_000)], pa.timestamp("us"))
    assert times_of(tmp_path, before) == [-2]


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (["1318896000", "yesterday"], r"holds text, such as 'yesterday'; write unix seconds as integers"),
        ([1318896000123, 5], r"holds 1318896000123, .*like 1 of 2 rows.*milliseconds.*divide by 1000"),
        (pa.array([2**63 + 1], pa.uint64()), "cannot be read as whole seconds"),
        ([True], "of type bool; write unix seconds"),
    ],
)
def test_times_that_are_none(tmp_path, times, words):
    with pytest.raises(UnigrecError, match=words):
        load(with_times(tmp_path, times))


@pytest.mark.parametrize("kind", [pa.null(), pa.string(), pa.int64()], ids=str)
def test_a_column_of_no_times_is_left_to_validation(tmp_path, kind):
    assert times_of(tmp_path, pa.nulls(2, kind)) == [None, None]


def test_a_text_that_is_no_time_in_csv(tmp_path):
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nu,a,soon\n")
    (tmp_path / "items.csv").write_text("item_id,title\na,A\n")
    with pytest.raises(UnigrecError, match=r"interactions\.csv: column 'timestamp' holds text, such as 'soon'"):
        load(tmp_path)


def test_csv_of_a_spreadsheet(tmp_path):
    # A byte order mark, Windows line ends, quotes, line breaks within quotes, numbers, empty fields, no last newline.
    (tmp_path / "interactions.csv").write_bytes(
        b'\xef\xbb\xbfuser_id,item_id,review,timestamp\r\n01,"a,1","good,\r\nvery",1318896000\r\n,b,,1318896001'
    )
    (tmp_path / "items.csv").write_text(
        'item_id,title,price,brand\n"a,1","A ""good"" thing\nin two lines",9.99,\nb,,,\n'
    )
    source = load(tmp_path)
    assert source.interactions.to_pydict() == {
        "user_id": ["01", None],
        "item_id": ["a,1", "b"],
        "timestamp": [1318896000, 1318896001],
    }
    assert source.items.to_pydict() == {
        "item_id": ["a,1", "b"],
        "title": ['A "good" thing\nin two lines', None],
        "brand": [None, None],
    }


def test_provenance_describes_content_not_place(tmp_path):
    first, second = tmp_path / "one", tmp_path / "two"
    first.mkdir()
    second.mkdir()
    one, two = load(folder_of(first)), load(folder_of(second))
    assert one.provenance == two.provenance
    content = (first / "interactions.parquet").read_bytes()
    assert one.provenance["files"][0] == {
        "name": "interactions.parquet",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert (one.provenance["interactions"], one.provenance["items"]) == (2, 2)


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


def test_a_folder_name_that_looks_like_a_partition_adds_no_column(tmp_path):
    inside = tmp_path / "brand=x"
    inside.mkdir()
    assert load(folder_of(inside)).items.column_names == ["item_id", "title"]


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


def test_columns_that_describe_the_items_are_text_whatever_they_look_like(tmp_path):
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nu,1,7\n")
    (tmp_path / "items.csv").write_text("item_id,title,brand,pages\n1,1984,007,328\n2,,,\n")
    source = load(tmp_path)
    assert source.items.to_pydict() == {"item_id": ["1", "2"], "title": ["1984", None], "brand": ["007", None]}
    assert source.provenance["dropped_item_columns"] == ["pages"]
    (tmp_path / "items.csv").unlink()
    items = {"item_id": [1, 2], "title": [1984.0, None], "brand": [True, None], "pages": [328, 1]}
    pq.write_table(pa.table(items), tmp_path / "items.parquet")
    assert load(tmp_path).items.to_pydict() == {"item_id": ["1", "2"], "title": ["1984", None], "brand": ["true", None]}


@pytest.mark.parametrize(
    "titles",
    [
        pa.array([["x", "y"]], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        pa.array([[["x"], [None, "y"]]]),
        pa.array([[[["x"]], [["y"]]]], pa.large_list(pa.list_(pa.list_(pa.large_string())))),
        pa.array([b"x | y"], pa.binary()),
        pa.array([[b"x", b"y"]], pa.list_(pa.binary())),
        pa.array([{"a": "x", "b": "y"}]),
        pa.array([[{"name": "x"}, {"name": "y"}]]),
    ],
    ids=lambda array: str(array.type),
)
def test_nested_texts_and_bytes_are_read(tmp_path, titles):
    source = load(folder_of(tmp_path, items={"item_id": ["a"], "title": titles}))
    assert source.items["title"].to_pylist() == ["x | y"]


def test_bytes_that_are_no_text_are_an_error_where_they_were_asked_for(tmp_path):
    pictures = pa.array([b"\xff\xd8"], pa.binary())
    folder = folder_of(tmp_path, items={"item_id": ["a"], "title": pictures})
    with pytest.raises(UnigrecError, match=r"items\.parquet: column 'title' holds bytes that are no UTF-8"):
        load(folder)
    assert load(folder, text_columns=("brand",)).provenance["dropped_item_columns"] == ["title"]


def test_a_column_of_texts_that_is_empty_throughout_is_named(tmp_path):
    source = load(folder_of(tmp_path, items={"item_id": ["a"], "title": ["A"], "brand": pa.nulls(1)}))
    assert source.warnings == ("items: column 'brand' of embed.text_columns is empty in every row",)


def test_what_was_converted_is_said_with_the_files_name_and_not_its_place(tmp_path):
    source = load(with_times(tmp_path, [MOMENT * 1000 + 7]))
    assert source.warnings == ("interactions.parquet: column 'timestamp' holds milliseconds: divided by 1,000",)
    assert source.interactions["timestamp"].to_pylist() == [MOMENT]


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


def test_own_names_ratings_and_a_condition(tmp_path):
    (tmp_path / "interactions.csv").write_text(
        "CustomerNo;sku;when;stars;Country;qty\n"
        "01;a;2011-10-18T00:00:00Z;5;NO;2\n"
        "01;b;2011-10-18T00:00:01Z;2;NO;1\n"
        "02;a;2011-10-18T00:00:02Z;4;SE;1\n"
        "03;a;2011-10-18T00:00:03Z;4;NO;-1\n"
        "04;b;2011-10-18T00:00:04Z;;NO;10\n"
    )
    (tmp_path / "items.csv").write_text("no,title,item_id\na,A,1\nb,B,2\n")
    columns = ColumnsParams(user_id="CustomerNo", item_id="sku", timestamp="when", items_id="no", rating="stars")
    source = load(tmp_path, columns=columns, min_rating=3.0, where="country = 'NO' AND qty > 0")
    assert source.interactions.to_pydict() == {"user_id": ["01"], "item_id": ["a"], "timestamp": [MOMENT]}
    assert source.items.to_pydict() == {"item_id": ["a", "b"], "title": ["A", "B"]}
    assert source.warnings == ("interactions.csv: column 'stars' is empty in 1 rows: they are left out",)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("qty >", r"ingest\.where = 'qty >': no condition of SQL"),
        ("true); DROP TABLE interactions; SELECT (1", "no condition of SQL"),
        ("colour = 'red'", "ingest.where = .* cannot be answered: .*colour.*its columns: user_id, item_id, timestamp"),
        ("user_id IN (SELECT content FROM read_text('/etc/hostname'))", "cannot be answered: .*disabled"),
    ],
)
def test_conditions_that_cannot_be_answered(tmp_path, where, words):
    with pytest.raises(UnigrecError, match=words):
        load(folder_of(tmp_path), where=where)


def test_a_condition_that_no_row_meets_and_ratings_that_are_none(tmp_path):
    folder = folder_of(tmp_path)
    with pytest.raises(UnigrecError, match=r"none of 2 rows is left by ingest\.where and ingest\.min_rating"):
        load(folder, where="timestamp < 0")
    with pytest.raises(UnigrecError, match="column 'item_id' holds 'a'; ratings are numbers"):
        load(folder, columns=ColumnsParams(rating="item_id"))


# --- files that cannot be read ---------------------------------------------------------------------------------------


def test_a_missing_file(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UnigrecError, match=r"no interactions\.parquet and no interactions\.csv \(found: notes\.txt\)"):
        load(tmp_path)


def test_parquet_and_csv_of_one_name(tmp_path):
    folder_of(tmp_path)
    (tmp_path / "items.csv").write_text("item_id\na\n")
    with pytest.raises(UnigrecError, match=r"both items\.parquet and items\.csv; remove"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["interactions.parquet", "items.parquet"])
def test_empty_and_truncated_parquet(tmp_path, name):
    file = folder_of(tmp_path) / name
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnigrecError, match=rf"{name}: cannot be read as Parquet, it is cut off or damaged"):
        load(tmp_path)
    file.write_bytes(b"")
    with pytest.raises(UnigrecError, match=rf"{name}: the file is empty"):
        load(tmp_path)


def test_no_rows(tmp_path):
    with pytest.raises(UnigrecError, match=r"interactions\.parquet: has a header but no rows"):
        load(with_times(tmp_path, pa.array([], pa.int64())))


def test_missing_and_repeated_column(tmp_path):
    with pytest.raises(
        UnigrecError, match=r"no column 'item_id' \(found: user_id, asin, timestamp\); rename or add it"
    ):
        load(folder_of(tmp_path, {"user_id": ["u"], "asin": ["a"], "timestamp": [1]}))
    twice = pa.table([["a"], ["x"], ["y"]], names=["item_id", "title", "title"])
    with pytest.raises(UnigrecError, match="two columns are named 'title'; keep one"):
        load(folder_of(tmp_path, items=twice))
    source = load(tmp_path, text_columns=("brand",))  # nobody asks for either
    assert (source.items.column_names, source.provenance["dropped_item_columns"]) == (["item_id"], ["title"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"user_id/item_id/timestamp\nu/a/1\n", "no column 'user_id'.*is it separated by commas"),
        (b"user_id,item_id,timestamp\nu,a,1\nu,a\n", "cannot be read as CSV.*Expected 3 columns, got 2"),
        (b"user_id,item_id,timestamp\n", "has a header but no rows"),
        (b"", "the file is empty"),
        (b"\n\n", "cannot be read as CSV"),
        (b'user_id,item_id,timestamp\n"u,a,1\n', "cannot be read as CSV"),
    ],
    ids=["slashes", "short row", "header only", "nothing", "blank", "open quote"],
)
def test_broken_csv(tmp_path, content, words):
    (tmp_path / "interactions.csv").write_bytes(content)
    (tmp_path / "items.csv").write_text("item_id,title\na,A\n")
    with pytest.raises(UnigrecError, match=words):
        load(tmp_path)
