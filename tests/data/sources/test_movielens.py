"""MovieLens: the old `::` files and the newer CSV files."""

from __future__ import annotations

from pathlib import Path

import pytest

from unigrec.base.errors import UnigrecError
from unigrec.config.schema import IngestParams, SampleParams
from unigrec.data.sources.load import load_source
from unigrec.data.sources.movielens import read_movielens

RATINGS_DAT = "1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978298413\n"
MOVIES_DAT = (
    "661::James and the Giant Peach (1996)::Animation|Children's\n1193::Misérables: Part 2, Les (1995)::Drama\n"
)
RATINGS_CSV = "userId,movieId,rating,timestamp\n1,1193,5.0,978300760\n1,661,3.5,978302109\n2,1193,4.0,978298413\n"
MOVIES_CSV = 'movieId,title,genres\n661,"Peach, Giant (1996)",Animation|Children\n1193,NULL,(no genres listed)\n'


def dat(folder: Path, encoding: str = "latin-1") -> Path:
    (folder / "ratings.dat").write_text(RATINGS_DAT)
    (folder / "movies.dat").write_bytes(MOVIES_DAT.encode(encoding))
    return folder


def csv(folder: Path) -> Path:
    (folder / "ratings.csv").write_text(RATINGS_CSV)
    (folder / "movies.csv").write_text(MOVIES_CSV)
    return folder


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_dat(tmp_path, encoding):
    interactions, items, files = read_movielens(dat(tmp_path, encoding), 0.0)
    assert interactions.to_pydict() == {
        "user_id": ["1", "1", "2"],
        "item_id": ["1193", "661", "1193"],
        "timestamp": [978300760, 978302109, 978298413],
    }
    assert items.to_pylist() == [
        {"item_id": "661", "title": "James and the Giant Peach (1996)", "categories": "Animation | Children's"},
        {"item_id": "1193", "title": "Misérables: Part 2, Les (1995)", "categories": "Drama"},
    ]
    assert [file.name for file in files] == ["ratings.dat", "movies.dat"]


def test_csv_through_load_source(tmp_path):
    sample = SampleParams(users=1, items=10, interactions=1)
    ingest = IngestParams(source="movielens", path=str(csv(tmp_path)), min_rating=4.0, sample=sample)
    source = load_source(ingest, seed=0)
    assert source.interactions.to_pydict() == {
        "user_id": ["1", "2"],
        "item_id": ["1193", "1193"],
        "timestamp": [978300760, 978298413],
    }
    assert source.items.to_pylist() == [
        {"item_id": "661", "title": "Peach, Giant (1996)", "categories": "Animation | Children"},
        {"item_id": "1193", "title": "NULL", "categories": None},
    ]
    assert [file["name"] for file in source.provenance["files"]] == ["ratings.csv", "movies.csv"]


def test_the_release_of_100k_has_names_of_its_own(tmp_path):
    (tmp_path / "u.data").write_text("196\t242\t3\t881250949\n196\t1\t2\t881250950\n")
    flags = "|".join("1" if place in (3, 5) else "0" for place in range(19))
    movies = f"242|Café (1997)|24-Jan-1997||http://x|{flags}\n1|Toy (1995)|||\n"
    (tmp_path / "u.item").write_bytes(movies.encode("latin-1"))
    interactions, items, read = read_movielens(tmp_path, 3.0)
    assert interactions.to_pylist() == [{"user_id": "196", "item_id": "242", "timestamp": 881250949}]
    assert items["title"].to_pylist() == ["Café (1997)", "Toy (1995)"]
    assert items["categories"].to_pylist() == ["Animation | Comedy", None]
    assert [file.name for file in read] == ["u.data", "u.item"]


def test_no_rating_left(tmp_path):
    with pytest.raises(UnigrecError, match=r"no rating of at least 6\.0; lower ingest\.min_rating"):
        read_movielens(csv(tmp_path), 6.0)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("ratings.dat", "1::1193::5::978300760\n1::661::3\n", "cannot be read as UserID::MovieID"),
        ("ratings.dat", "1::1193::five::978300760\n", "cannot be read as UserID::MovieID.*five"),
        ("ratings.dat", "", "the file is empty"),
        ("movies.dat", "661::Peach::Drama\n662 Peach\n", r"movies\.dat, line 2: .*expected MovieID::Title::Genres"),
        (
            "ratings.csv",
            "userId,movieId,rating\n1,2,3\n",
            "timestamp.*expected the header userId,movieId,rating,timestamp",
        ),
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,2,3,soon\n", "cannot be read as CSV of MovieLens.*soon"),
        ("movies.csv", "", "the file is empty"),
    ],
)
def test_broken_files(tmp_path, name, content, words):
    folder = dat(tmp_path) if name.endswith(".dat") else csv(tmp_path)
    (folder / name).write_text(content)
    with pytest.raises(UnigrecError, match=words):
        read_movielens(folder, 0.0)


def test_missing_files(tmp_path):
    (dat(tmp_path) / "movies.dat").unlink()
    with pytest.raises(UnigrecError, match=r"found: ratings\.dat\); give the unpacked folder"):
        read_movielens(tmp_path, 0.0)
