"""Downloads, from a server of our own on 127.0.0.1 that can also misbehave."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import threading
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from unigrec.base.errors import UnigrecError
from unigrec.cli import app
from unigrec.data.fetch import OFFICIAL, fetch_source
from unigrec.data.sources.amazon import read_amazon
from unigrec.data.sources.movielens import read_movielens

REVIEW = {"reviewerID": "U", "asin": "B", "overall": 5.0, "unixReviewTime": 1390176000}
REVIEWS = gzip.compress(json.dumps(REVIEW).encode(), mtime=0)
META = gzip.compress(b"{'asin': 'B', 'title': 'Thing'}", mtime=0)


class Site:
    """Files by path, a log of requests, and faults: how many bytes to send before the connection is cut."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.moved: dict[str, str] = {}
        self.cut_after: dict[str, int] = {}
        self.with_length = True
        self.requests: list[str] = []
        self.url = ""


def handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests.append(self.path)
            if self.path in site.moved:
                self.send_response(302)
                self.send_header("Location", site.moved[self.path])
                self.end_headers()
                return
            if self.path not in site.files:
                self.send_error(404)
                return
            body = site.files[self.path]
            self.send_response(200)
            if site.with_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: site.cut_after.pop(self.path, len(body))])

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def site():
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(site))
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def beauty(site: Site) -> None:
    site.files = {"/reviews_Beauty_5.json.gz": REVIEWS, "/meta_Beauty.json.gz": META}


def get(site: Site, folder: Path, source: str = "amazon-2014", category: str = "Beauty", **options) -> list[Path]:
    return fetch_source(source, category, folder, site.url, timeout=5.0, report=lambda line: None, **options)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_amazon_2014_can_be_ingested(site, tmp_path):
    beauty(site)
    files = get(site, tmp_path)
    assert [file.read_bytes() for file in files] == [REVIEWS, META]
    assert leftovers(tmp_path) == ["meta_Beauty.json.gz", "reviews_Beauty_5.json.gz"]
    interactions, items, _ = read_amazon(tmp_path, "amazon-2014", 0.0)
    assert (interactions.num_rows, items["title"].to_pylist()) == (1, ["Thing"])


def test_amazon_2023_has_its_own_layout(site, tmp_path):
    site.files = {"/review_categories/All_Beauty.jsonl.gz": REVIEWS, "/meta_categories/meta_All_Beauty.jsonl.gz": META}
    files = get(site, tmp_path, "amazon-2023", "All_Beauty")
    assert [file.name for file in files] == ["All_Beauty.jsonl.gz", "meta_All_Beauty.jsonl.gz"]


def archive(members: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, text in members.items():
            opened.writestr(name, text)
    return buffer.getvalue()


def test_movielens_is_unpacked_without_the_rest_of_the_archive(site, tmp_path):
    members = {
        "ml-1m/ratings.dat": "1::2::5::978300760\n",
        "ml-1m/movies.dat": "2::Jumanji (1995)::Adventure\n",
        "ml-1m/users.dat": "1::F::1::10::48067\n",
        "../movies.csv": "escaped",
    }
    site.files = {"/ml-1m.zip": archive(members)}
    inside = tmp_path / "inside"
    files = get(site, inside, "movielens", "ml-1m")
    assert [file.name for file in files] == ["ratings.dat", "movies.dat"]
    assert leftovers(tmp_path) == ["inside"]
    assert leftovers(inside) == ["movies.csv", "movies.dat", "ratings.dat"]
    assert read_movielens(inside, 0.0)[0].num_rows == 1
    assert get(site, inside, "movielens", "ml-1m") == files
    assert len(site.requests) == 1


def test_files_that_are_there_are_not_downloaded_again(site, tmp_path):
    beauty(site)
    get(site, tmp_path)
    get(site, tmp_path)
    assert len(site.requests) == 2


def test_a_short_read_is_an_error_that_leaves_nothing_and_the_next_run_starts_again(site, tmp_path):
    beauty(site)
    site.cut_after = {"/reviews_Beauty_5.json.gz": 40}
    with pytest.raises(UnigrecError, match=rf"the download stopped .*40 bytes.* {len(REVIEWS)}.*run the same command"):
        get(site, tmp_path)
    assert leftovers(tmp_path) == []
    assert [file.read_bytes() for file in get(site, tmp_path)] == [REVIEWS, META]
    assert leftovers(tmp_path) == ["meta_Beauty.json.gz", "reviews_Beauty_5.json.gz"]


def test_a_redirect_is_followed(site, tmp_path):
    beauty(site)
    site.moved = {"/meta_Beauty.json.gz": "/elsewhere.gz"}
    site.files["/elsewhere.gz"] = META
    assert [file.read_bytes() for file in get(site, tmp_path)] == [REVIEWS, META]


def test_the_sha_256_of_each_file_is_reported(site, tmp_path):
    beauty(site)
    lines: list[str] = []
    fetch_source("amazon-2014", "Beauty", tmp_path, site.url, report=lines.append)
    assert lines[1] == f"{tmp_path}/reviews_Beauty_5.json.gz: sha256 {hashlib.sha256(REVIEWS).hexdigest()}"


def test_no_such_category(site, tmp_path):
    with pytest.raises(UnigrecError, match=r"answers 404 .*is the category spelled.*Toys_and_Games"):
        get(site, tmp_path)
    assert leftovers(tmp_path) == []


def test_nobody_answers(site, tmp_path):
    closed = "http://127.0.0.1:9"  # the discard port, where nothing listens
    with pytest.raises(UnigrecError, match=r"the download stopped \(.*refused\); check the network"):
        fetch_source("amazon-2014", "Beauty", tmp_path, closed, timeout=5.0, report=lambda line: None)


def test_an_error_page_is_no_data(site, tmp_path):
    beauty(site)
    site.files["/reviews_Beauty_5.json.gz"] = b"<html>Please log in</html>"
    with pytest.raises(UnigrecError, match=r"the answer is no \.gz file"):
        get(site, tmp_path)
    assert leftovers(tmp_path) == []


def test_a_damaged_archive_is_removed(site, tmp_path):
    site.files = {"/ml-1m.zip": archive({"ml-1m/ratings.dat": "1::2::5::978300760\n" * 50})[:-30]}
    with pytest.raises(UnigrecError, match=r"ml-1m\.zip: damaged archive"):
        get(site, tmp_path, "movielens", "ml-1m")
    assert leftovers(tmp_path) == []


def test_an_archive_without_ratings(site, tmp_path):
    site.files = {"/ml-100k.zip": archive({"ml-100k/u.data": "1\t2\t3\t4"})}
    with pytest.raises(UnigrecError, match="holds no ratings and movies that `ingest` can read"):
        get(site, tmp_path, "movielens", "ml-100k")


@pytest.mark.parametrize("with_length", [True, False])
def test_size_is_bounded(site, tmp_path, with_length):
    beauty(site)
    site.with_length = with_length
    with pytest.raises(UnigrecError, match="more than the bound of"):
        get(site, tmp_path, max_bytes=10)
    assert leftovers(tmp_path) == []


def test_a_disk_too_small_is_seen_before_the_download(site, tmp_path, monkeypatch):
    beauty(site)
    usage = namedtuple("usage", "total used free")(100, 90, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UnigrecError, match=r"MB to download, .* free"):
        get(site, tmp_path)


def test_a_disk_that_fills_up(site, tmp_path, monkeypatch):
    beauty(site)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UnigrecError, match=r"could not be written: .*No space left"):
        get(site, tmp_path)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("source", "category", "base", "words"),
    [
        ("folder", "Beauty", None, "'folder' cannot be downloaded; choose one of amazon-2014"),
        ("amazon-2014", "../etc/passwd", None, "is not a name that amazon-2014 uses"),
        ("amazon-2014", "Beauty", "file:///etc", "only https and http addresses"),
    ],
)
def test_what_is_asked_for_is_checked_first(tmp_path, source, category, base, words):
    with pytest.raises(UnigrecError, match=words):
        fetch_source(source, category, tmp_path, base)


def test_the_official_addresses_are_the_publishers():
    hosts = {address.split("/")[2] for address in OFFICIAL.values()}
    assert hosts == {"mcauleylab.ucsd.edu", "files.grouplens.org"}
    assert all(address.startswith("https://") for address in OFFICIAL.values())


def test_command(site, tmp_path):
    beauty(site)
    folder = tmp_path / "data"
    arguments = [
        "fetch",
        "--source",
        "amazon-2014",
        "--category",
        "Beauty",
        "--to",
        str(folder),
        "--base-url",
        site.url,
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert f"{site.url}/reviews_Beauty_5.json.gz: 0.0 MB" in result.output
    assert "ready: reviews_Beauty_5.json.gz, meta_Beauty.json.gz. Set ingest.source: amazon-2014" in result.output
