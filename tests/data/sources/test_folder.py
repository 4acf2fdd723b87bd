"""The folder source: what is read as what, and what is refused with which words."""

from __future__ import annotations

import gzip
import hashlib
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest

from support.source_folder import MOMENT, folder_of, load
from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.base.paths import Artifacts
from unigrec.config.schema import ColumnsParams, IngestParams, SampleParams
from unigrec.data.sources.batches import interaction_batches
from unigrec.data.sources.folder import read_interactions


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
        ([1318896000123, 5], r"holds 1318896000123, .*milliseconds.*divide by 1000"),
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


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.float16()], ids=str)
def test_a_column_of_nan_is_one_of_no_times(tmp_path, kind):
    assert times_of(tmp_path, pa.array([float("nan"), None, float("nan")], pa.float64()).cast(kind)) == [None] * 3


def test_times_of_mail_have_an_offset_or_a_named_zone(tmp_path):
    texts = ["Sat, 01 Feb 2020 10:00:00 +0200", "Sat, 01 Feb 2020 10:00:00 EST", "Sat, 01 Feb 2020 10:00:00 GMT"]
    source = load(with_times(tmp_path, texts))
    moment = 1_580_551_200  # 10:00 UTC
    assert source.interactions["timestamp"].to_pylist() == [moment - 2 * 3600, moment + 5 * 3600, moment]
    assert source.warnings == ()


def test_a_half_of_the_day_is_no_zone(tmp_path):
    source = load(with_times(tmp_path, ["Feb 01, 2020 10:00:00 PM"]))
    assert source.interactions["timestamp"].to_pylist() == [1_580_551_200 + 12 * 3600]
    (warning,) = source.warnings
    assert warning.endswith("holds times without a zone: taken as UTC")


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


def test_a_folder_name_that_looks_like_a_partition_adds_no_column(tmp_path):
    inside = tmp_path / "brand=x"
    inside.mkdir()
    assert load(folder_of(inside)).items.column_names == ["item_id", "title"]


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


def test_codes_with_a_leading_zero_are_text_in_a_condition(tmp_path):
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp,plz\nu,a,1,01007\nv,a,2,80331\nw,a,3,01099\n")
    (tmp_path / "items.csv").write_text("item_id,title\na,A\n")
    for where in ("plz LIKE '01%'", "CAST(plz AS VARCHAR) LIKE '01%'", "plz <> '80331'"):
        assert load(tmp_path, where=where).interactions["user_id"].to_pylist() == ["u", "w"]


def test_codes_of_several_lengths_are_text_in_a_condition(tmp_path):
    rows = "".join(f"{code},a,1,{code}\n" for code in ("01007", "1007", "8001"))
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp,plz\n" + rows)
    (tmp_path / "items.csv").write_text("item_id,title\na,A\n")
    for where, users in (("plz = '1007'", ["1007"]), ("plz LIKE '01%'", ["01007"])):
        assert load(tmp_path, where=where).interactions["user_id"].to_pylist() == users


def test_padded_numbers_of_several_lengths_are_numbers_in_a_condition(tmp_path):
    rows = "".join(f"u{visit},a,1,{visit:02d}\n" for visit in range(1, 121))
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp,visit\n" + rows)
    (tmp_path / "items.csv").write_text("item_id,title\na,A\n")
    for where, least in (("row_number() OVER (ORDER BY visit DESC) <= 20", 101), ("visit > '50'", 51)):
        users = load(tmp_path, where=where).interactions["user_id"].to_pylist()
        assert users == [f"u{visit}" for visit in range(least, 121)]


def test_padded_numbers_are_numbers_where_a_condition_needs_them(tmp_path):
    (tmp_path / "interactions.csv").write_text(
        "user_id,item_id,timestamp,qty,price\nu,a,1,001,000012.50\nv,a,2,002,000000.40\nw,a,3,010,000003.00\n"
    )
    (tmp_path / "items.csv").write_text("item_id,title\na,A\n")
    for where, users in (("qty > 1", ["v", "w"]), ("price > 0.5", ["u", "w"]), ("qty * price > 5", ["u", "w"])):
        assert load(tmp_path, where=where).interactions["user_id"].to_pylist() == users


def test_a_key_that_nobody_reads_may_be_spelled_twice(tmp_path):
    log = '{"user_id": "u", "item_id": "a", "timestamp": 1, "requestId": 1}\n'
    (tmp_path / "interactions.jsonl").write_text(log + log.replace("requestId", "requestID"))
    (tmp_path / "items.csv").write_text("item_id,title\na,A\n")
    assert load(tmp_path).interactions.num_rows == 2


def test_keys_of_json_that_differ_in_case_alone_are_an_error(tmp_path):
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nu,a,1\n")
    items = tmp_path / "items.jsonl"
    items.write_text('{"item_id": "a", "title": "A", "brand": "x"}\n{"item_id": "b", "title": "B", "Brand": "y"}\n')
    assert load(tmp_path, text_columns=("title",)).items.column_names == ["item_id", "title"]
    with pytest.raises(UnigrecError, match=r"another key differs from 'brand' in case alone"):
        load(tmp_path, text_columns=("title", "brand"))
    with pytest.raises(UnigrecError, match=r"another key differs from 'brand' in case alone"):
        load(tmp_path, text_columns=("title",), served=("brand",))
    (tmp_path / "interactions.csv").unlink()
    log = '{"user_id": "u", "item_id": "a", "timestamp": 1, "Shop": 1}\n'
    (tmp_path / "interactions.jsonl").write_text(log + log.replace("Shop", "shop"))
    with pytest.raises(UnigrecError, match=r"another key differs from 'shop' in case alone"):
        load(tmp_path, text_columns=("title",), where="shop = 1")
    items.write_text('{"item_id": "a", "title": "A", "brand": "x", "brand_1": "y"}\n')
    assert load(tmp_path).items["brand_1"].to_pylist() == ["y"]


def test_one_day_as_a_number_is_read_as_a_date_and_days_of_a_spreadsheet_are_pointed_out(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\na,A\n")
    log = tmp_path / "interactions.csv"
    log.write_text("user_id,item_id,timestamp\nu,a,20240515\nv,a,20240515\n")
    source = load(tmp_path)
    assert source.interactions["timestamp"].to_pylist() == [1_715_731_200] * 2
    assert any("read as YYYYMMDD" in note for note in source.warnings)
    log.write_text("user_id,item_id,timestamp\nu,a,45292\nv,a,45577\n")
    assert any("days of a spreadsheet (2024-01-01)" in note for note in load(tmp_path).warnings)


def test_what_the_stage_ingest_wrote_is_read_under_our_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = pa.table({"user_id": ["u"], "item_id": ["a"], "timestamp": [1]})
    files.write_table(Artifacts().interactions, written)
    names = ColumnsParams(user_id="who", rating="stars")
    sample = SampleParams(users=40, items=30, interactions=300)
    params = IngestParams(source="folder", path="shop", min_rating=3.0, columns=names, sample=sample)
    assert read_interactions(Artifacts().interactions, params)[0].to_pydict() == written.to_pydict()
    (table,) = interaction_batches(Artifacts().interactions.absolute(), params, 10, [])
    assert table.to_pydict() == written.to_pydict()
    files.write_table(Path("shop/interactions.parquet"), written)
    with pytest.raises(UnigrecError, match="no column 'who'"):
        read_interactions(Path("shop/interactions.parquet"), params)


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


def test_endings_are_compared_without_case_and_two_files_of_one_name_are_refused(tmp_path):
    (tmp_path / "interactions.CSV").write_text("user_id,item_id,timestamp\nu,a,7\n")
    with gzip.open(tmp_path / "items.JSONL.GZ", "wt") as file:
        file.write('{"item_id": "a", "title": "A"}\n')
    assert load(tmp_path).items.to_pylist() == [{"item_id": "a", "title": "A"}]
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nv,a,8\n")
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("the file system does not tell upper from lower case")
    with pytest.raises(UnigrecError, match=r"holds both interactions\.CSV and interactions\.csv; remove the one"):
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


def test_events_travel_as_a_column_and_an_unknown_one_is_refused_by_name(tmp_path):
    rows = [("u", "a", 1, "view"), ("u", "a", 1, "purchase"), ("u", "b", 2, "view")]
    log = dict(zip(("user_id", "item_id", "timestamp", "kind"), zip(*rows, strict=True), strict=True))
    folder, columns = folder_of(tmp_path, log), ColumnsParams(event="kind")
    assert load(folder).interactions.column_names == ["user_id", "item_id", "timestamp"]
    source = load(folder, columns=columns, events={"view": 0.2, "purchase": 1})
    assert source.interactions["event"].to_pylist() == ["view", "purchase", "view"]
    with pytest.raises(
        UnigrecError, match=r"column 'kind' holds 'view' \(2 rows\), which ingest\.events does not name"
    ):
        load(folder, columns=columns, events={"purchase": 1})
    assert load(folder, columns=columns, events={"purchase": 1}, where="kind <> 'view'").interactions.num_rows == 1
    with pytest.raises(UnigrecError, match="no column 'event'"):
        load(folder, events={"purchase": 1})
