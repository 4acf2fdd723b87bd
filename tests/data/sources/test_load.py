"""Dispatch: each kind of source has its reader, and each reads a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from unigrec.base.errors import UnigrecError
from unigrec.config.schema import IngestParams, SampleParams
from unigrec.data.sources.load import load_source

FILES = {
    "folder": {"interactions.csv": "user_id,item_id,timestamp\nu,a,7\n", "items.csv": "item_id,title\na,A thing\n"},
    "movielens": {"ratings.dat": "u::a::5::7\n", "movies.dat": "a::A thing::Drama\n"},
    "amazon-2014": {
        "reviews_Toys_5.json": '{"reviewerID": "u", "asin": "a", "overall": 5.0, "unixReviewTime": 7}\n',
        "meta_Toys.json": '{"asin": "a", "title": "A thing"}\n',
    },
    "amazon-2023": {
        "Toys.jsonl": '{"user_id": "u", "parent_asin": "a", "rating": 5.0, "timestamp": 7000}\n',
        "meta_Toys.jsonl": '{"parent_asin": "a", "title": "A thing"}\n',
    },
}


def params(source: str, path: Path) -> IngestParams:
    sample = SampleParams(users=40, items=30, interactions=300)
    return IngestParams(source=source, path=str(path), min_rating=4.0, sample=sample)


@pytest.mark.parametrize("source", FILES)
def test_each_kind_of_source_is_read_by_its_reader_into_the_same_tables(tmp_path, source):
    for name, text in FILES[source].items():
        (tmp_path / name).write_text(text)
    found = load_source(params(source, tmp_path), seed=7)
    assert found.interactions.to_pylist() == [{"user_id": "u", "item_id": "a", "timestamp": 7}]
    assert found.items.select(["item_id", "title"]).to_pylist() == [{"item_id": "a", "title": "A thing"}]
    assert (found.provenance["source"], found.provenance["interactions"]) == (source, 1)
    assert {file["name"] for file in found.provenance["files"]} == set(FILES[source])


@pytest.mark.parametrize("source", FILES)
def test_the_path_must_be_a_folder(tmp_path, source):
    with pytest.raises(UnigrecError, match=r"nowhere: does not exist; ingest\.path must be the folder"):
        load_source(params(source, tmp_path / "nowhere"), seed=7)
    (tmp_path / "file").touch()
    with pytest.raises(UnigrecError, match=r"is a file; ingest\.path must be the folder"):
        load_source(params(source, tmp_path / "file"), seed=7)
