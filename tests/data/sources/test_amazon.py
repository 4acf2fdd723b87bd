"""The Amazon dumps: both editions as they are downloaded, and what a damaged one says."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from unigrec.base.errors import UnigrecError
from unigrec.config.schema import IngestParams, SampleParams
from unigrec.data.sources import files
from unigrec.data.sources.amazon import read_amazon
from unigrec.data.sources.load import load_source

REVIEWS_2014 = [
    {"reviewerID": "U1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1390176000, "reviewText": "nice\nthing"},
    {"reviewerID": "U2", "asin": "B2", "overall": 2.0, "unixReviewTime": 1390262400, "helpful": [1, 2]},
    {"reviewerID": "U1", "asin": "B3", "overall": 4.0, "unixReviewTime": 1390348800},
]
META_2014 = [
    {"asin": "B9", "title": "nobody reviewed this"},
    {
        "asin": "B2",
        "title": "Brush &amp; Comb,\n  Grandma's",
        "brand": "",
        "categories": [["Beauty", "Hair"], ["Gifts"]],
        "price": 3.5,
    },
    {"asin": "B1", "description": 'It\'s "fine"', "categories": [["Beauty"]], "related": {"also_bought": ["B2"]}},
    {"asin": "B1", "title": "a second description of the same"},
]


def gz(path: Path, lines: list[str]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in lines)
    return path


def folder_2014(folder: Path, reviews: list[str] | None = None, meta: list[str] | None = None) -> Path:
    gz(folder / "reviews_Beauty_5.json.gz", reviews or [json.dumps(record) for record in REVIEWS_2014])
    gz(folder / "meta_Beauty.json.gz", meta or [repr(record) for record in META_2014])  # Python literals, as published
    return folder


def test_2014(tmp_path):
    interactions, items, read = read_amazon(folder_2014(tmp_path), "amazon-2014", 0.0)
    assert interactions.to_pydict() == {
        "user_id": ["U1", "U2", "U1"],
        "item_id": ["B1", "B2", "B3"],
        "timestamp": [1390176000, 1390262400, 1390348800],
    }
    assert items.to_pylist() == [
        {
            "item_id": "B2",
            "title": "Brush & Comb, Grandma's",
            "brand": None,
            "categories": "Beauty > Hair | Gifts",
            "description": None,
        },
        {"item_id": "B1", "title": None, "brand": None, "categories": "Beauty", "description": 'It\'s "fine"'},
        {"item_id": "B3", "title": None, "brand": None, "categories": None, "description": None},
    ]
    assert [path.name for path in read] == ["reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"]


def test_2014_metadata_in_json(tmp_path):
    literal = read_amazon(folder_2014(tmp_path), "amazon-2014", 0.0)[1]
    as_json = read_amazon(folder_2014(tmp_path, meta=[json.dumps(record) for record in META_2014]), "amazon-2014", 0.0)
    assert literal.equals(as_json[1])


def test_2023(tmp_path):
    reviews = [
        {"user_id": "AE1", "parent_asin": "P1", "asin": "x", "rating": 5.0, "timestamp": 1588687728923, "title": "Hm"},
        {"user_id": "AE2", "parent_asin": "P2", "asin": "y", "rating": 1, "timestamp": 1588615855070},
    ]
    meta = [
        {
            "parent_asin": "P2",
            "title": "Cream",
            "store": "Shop",
            "details": {"Brand": "Maker"},
            "categories": ["All Beauty", "Face"],
            "description": ["First.", "Second."],
            "features": ["soft", "white"],
        },
        {
            "parent_asin": "P1",
            "title": "Soap",
            "store": "Shop",
            "main_category": "All Beauty",
            "categories": [],
            "price": None,
        },
    ]
    gz(tmp_path / "All_Beauty.jsonl.gz", [json.dumps(record) for record in reviews])
    gz(tmp_path / "meta_All_Beauty.jsonl.gz", [json.dumps(record) for record in meta])
    interactions, items, _ = read_amazon(tmp_path, "amazon-2023", 0.0)
    assert interactions["timestamp"].to_pylist() == [1588687728, 1588615855]
    assert items.to_pylist() == [
        {
            "item_id": "P2",
            "title": "Cream",
            "brand": "Maker",
            "categories": "All Beauty > Face",
            "description": "First. Second.",
            "features": "soft white",
        },
        {
            "item_id": "P1",
            "title": "Soap",
            "brand": "Shop",
            "categories": "All Beauty",
            "description": None,
            "features": None,
        },
    ]


def test_min_rating(tmp_path):
    ingest = IngestParams(
        source="amazon-2014",
        path=str(folder_2014(tmp_path)),
        min_rating=4.0,
        sample=SampleParams(users=1, items=10, interactions=1),
    )
    source = load_source(ingest, seed=0)
    assert source.interactions["item_id"].to_pylist() == ["B1", "B3"]
    assert source.items["item_id"].to_pylist() == ["B1", "B3"]
    assert source.provenance["min_rating"] == 4.0
    assert [file["name"] for file in source.provenance["files"]] == ["reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"]
    with pytest.raises(UnigrecError, match=r"no review with a rating of at least 6\.0; lower ingest\.min_rating"):
        read_amazon(tmp_path, "amazon-2014", 6.0)


def test_unpacked_files_are_read_as_well(tmp_path):
    folder_2014(tmp_path)
    packed = read_amazon(tmp_path, "amazon-2014", 0.0)
    for path in list(tmp_path.iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    plain = read_amazon(tmp_path, "amazon-2014", 0.0)
    assert plain[0].equals(packed[0])
    assert plain[1].equals(packed[1])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"reviewerID": "U1", "asin": "B1", "ov', r"line 2: neither JSON nor a literal"),
        ("__import__('os').getcwd()", "line 2: neither JSON nor a literal"),
        ("[" * 100_000, "line 2: neither JSON nor a literal"),
        ("[1, 2]", "line 2: expected one object per line, found list"),
        ('{"reviewerID": "U1", "overall": 5.0, "unixReviewTime": 1}', "line 2: no field 'asin'"),
        ('{"reviewerID": null, "asin": "B1", "overall": 5.0, "unixReviewTime": 1}', "line 2: 'reviewerID' is None"),
        (
            '{"reviewerID": "U1", "asin": "B1", "overall": 5.0, "unixReviewTime": "1"}',
            "line 2: 'unixReviewTime' is '1'",
        ),
    ],
    ids=["cut off", "code", "deep", "list", "missing", "null", "text time"],
)
def test_a_broken_line_is_named(tmp_path, line, words):
    reviews = [json.dumps(REVIEWS_2014[0]), line, json.dumps(REVIEWS_2014[2])]
    with pytest.raises(UnigrecError, match=rf"reviews_Beauty_5\.json\.gz, {words}"):
        read_amazon(folder_2014(tmp_path, reviews), "amazon-2014", 0.0)


def test_a_broken_line_of_metadata_is_named(tmp_path):
    with pytest.raises(UnigrecError, match=r"meta_Beauty\.json\.gz, line 1: neither JSON nor a literal"):
        read_amazon(folder_2014(tmp_path, meta=["{'asin': 'B1', 'title': "]), "amazon-2014", 0.0)


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 1000)
    reviews = [json.dumps(REVIEWS_2014[0]), json.dumps({**REVIEWS_2014[1], "reviewText": "x" * 2000})]
    with pytest.raises(UnigrecError, match="line 2: longer than 1,000 bytes"):
        read_amazon(folder_2014(tmp_path, reviews), "amazon-2014", 0.0)


@pytest.mark.parametrize("damage", ["cut", "flipped", "not gzip", "empty"])
def test_a_damaged_file_is_named(tmp_path, damage):
    file = (
        folder_2014(tmp_path, [json.dumps({**REVIEWS_2014[0], "n": n}) for n in range(500)])
        / "reviews_Beauty_5.json.gz"
    )
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(
        {
            "cut": whole[:middle],
            "flipped": whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 9]) + whole[middle + 9 :],
            "not gzip": b"<html>moved</html>",
            "empty": b"",
        }[damage]
    )
    with pytest.raises(UnigrecError, match=r"reviews_Beauty_5\.json\.gz(: damaged|: the file is empty|, line \d)"):
        read_amazon(tmp_path, "amazon-2014", 0.0)


def test_one_category_a_folder(tmp_path):
    with pytest.raises(UnigrecError, match=r"expected one file of reviews of amazon-2014, found: none.*unigrec fetch"):
        read_amazon(tmp_path, "amazon-2014", 0.0)
    folder_2014(tmp_path)
    gz(tmp_path / "reviews_Toys_5.json.gz", ["{}"])
    with pytest.raises(UnigrecError, match=r"found: reviews_Beauty_5\.json\.gz, reviews_Toys_5\.json\.gz; keep one"):
        read_amazon(tmp_path, "amazon-2014", 0.0)


def test_memory_does_not_grow_with_the_texts_of_the_dump(tmp_path):
    text = "word " * 1000
    reviews = (json.dumps({**REVIEWS_2014[0], "unixReviewTime": n, "reviewText": text}) for n in range(4000))
    folder_2014(tmp_path, list(reviews))
    tracemalloc.start()
    interactions, _, _ = read_amazon(tmp_path, "amazon-2014", 0.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert interactions.num_rows == 4000
    assert peak < 4 * 2**20  # the dump unpacks to 20 MB
