"""The folder source: what is read as what, and what is refused with which words."""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest

from unigrec.base.errors import UnigrecError
from unigrec.config.schema import IngestParams, SampleParams
from unigrec.data.sources.load import load_source
from unigrec.data.sources.source import Source

SAMPLE = SampleParams(users=40, items=30, interactions=300)
MOMENT = 1_318_896_000


def load(folder: Path, source: str = "folder") -> Source:
    return load_source(IngestParams(source=source, path=str(folder), min_rating=0.0, sample=SAMPLE), seed=7)


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
        (["1318896000", "1318896001"], r"holds text, such as '1318896000'"),
        ([1318896000.25], r"'timestamp' holds 1318896000\.25; write whole numbers"),
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


@pytest.mark.parametrize("text", ["2014-07-23", "2014-07-23 10:00:00", "soon"])
def test_text_times_in_csv(tmp_path, text):
    (tmp_path / "interactions.csv").write_text(f"user_id,item_id,timestamp\nu,a,{text}\n")
    (tmp_path / "items.csv").write_text("item_id,title\na,A\n")
    with pytest.raises(UnigrecError, match=rf"interactions\.csv: column 'timestamp' holds text, such as '{text[:10]}"):
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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"user_id;item_id;timestamp\nu;a;1\n", "no column 'user_id'.*is it separated by commas"),
        (b"user_id,item_id,timestamp\nu,a,1\nu,a\n", "cannot be read as CSV.*Expected 3 columns, got 2"),
        (b"user_id,item_id,timestamp\nu\xff,a,1\n", "cannot be read as CSV"),
        (b"user_id,item_id,timestamp\n", "has a header but no rows"),
        (b"", "the file is empty"),
        (b"\n\n", "cannot be read as CSV"),
        (b'user_id,item_id,timestamp\n"u,a,1\n', "cannot be read as CSV"),
    ],
    ids=["semicolons", "short row", "bytes", "header only", "nothing", "blank", "open quote"],
)
def test_broken_csv(tmp_path, content, words):
    (tmp_path / "interactions.csv").write_bytes(content)
    (tmp_path / "items.csv").write_text("item_id,title\na,A\n")
    with pytest.raises(UnigrecError, match=words):
        load(tmp_path)
