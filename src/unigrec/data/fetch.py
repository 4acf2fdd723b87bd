"""Download a public data set from its official address into a folder that `ingest` reads.

This is the one place of the data code that needs a network; the pipeline itself reads local files alone. Terms of use
are the publishers': see the addresses below.
"""

from __future__ import annotations

import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from unigrec.base.errors import UnigrecError
from unigrec.base.files import atomic_path

OFFICIAL = {
    "amazon-2014": "https://mcauleylab.ucsd.edu/public_datasets/data/amazon/categoryFiles",
    "amazon-2023": "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw",
    "movielens": "https://files.grouplens.org/datasets/movielens",
}
FILES = {
    "amazon-2014": ("reviews_{category}_5.json.gz", "meta_{category}.json.gz"),
    "amazon-2023": ("review_categories/{category}.jsonl.gz", "meta_categories/meta_{category}.jsonl.gz"),
    "movielens": ("{category}.zip",),
}
EXAMPLES = {
    "amazon-2014": "Beauty, Sports_and_Outdoors, Toys_and_Games",
    "amazon-2023": "All_Beauty, Video_Games, Industrial_and_Scientific",
    "movielens": "ml-1m, ml-latest-small, ml-32m",
}
MOVIELENS_FILES = ("ratings.dat", "movies.dat", "ratings.csv", "movies.csv", "README", "README.txt", "README.html")
MAGIC = {".gz": b"\x1f\x8b", ".zip": b"PK"}

CHUNK_BYTES = 2**20
REPORT_SECONDS = 5.0
MAX_BYTES = 64 * 2**30  # of one file; larger is no category of these data sets


def fetch_source(
    source: str,
    category: str,
    folder: Path,
    base_url: str | None = None,
    *,
    max_bytes: int = MAX_BYTES,
    timeout: float = 60.0,
    report: Callable[[str], None] = print,
) -> list[Path]:
    """Download what `ingest` needs of one category (or MovieLens release) into `folder`.

    A file that is there already is kept; a download that was cut off goes on where it stopped, if the server can, and
    starts again if the file there has changed. Nothing incomplete ever stands under a final name.

    Args:
        base_url: a mirror with the same layout, instead of the official address.
        timeout: seconds without a byte before the download is given up.

    Returns:
        The files, ready for `ingest.path`.

    Raises:
        UnigrecError: source or category unknown, no answer, no such file, a short read, too large, no space.
    """
    if source not in OFFICIAL:
        raise UnigrecError(f"source {source!r} cannot be downloaded; choose one of {', '.join(OFFICIAL)}")
    if not re.fullmatch(r"[A-Za-z0-9][\w&.-]*", category, re.ASCII):
        raise UnigrecError(f"category {category!r} is not a name that {source} uses; such as {EXAMPLES[source]}")
    base = (base_url or OFFICIAL[source]).rstrip("/")
    if not base.startswith(("https://", "http://")):
        raise UnigrecError(f"base URL {base!r}: only https and http addresses can be downloaded from")
    folder.mkdir(parents=True, exist_ok=True)
    if source == "movielens" and (unpacked := _unpacked(folder)):
        report(f"{folder}: already holds {', '.join(path.name for path in unpacked)}")
        return unpacked

    files = []
    for template in FILES[source]:
        url = f"{base}/{template.format(category=category)}"
        target = folder / url.rpartition("/")[2]
        if target.exists():
            report(f"{target}: already there")
        else:
            _download(url, target, f"such as {EXAMPLES[source]}", max_bytes, timeout, report)
        files.append(target)
    return _unpack(files[0], folder, max_bytes) if source == "movielens" else files


def _download(
    url: str, target: Path, examples: str, max_bytes: int, timeout: float, report: Callable[[str], None]
) -> None:
    """Stream to a hidden partial file beside `target`, check it, and rename it."""
    partial = target.with_name(f".{target.name}.part")
    # What the server called this version of the file: a partial file is only continued with more of the same.
    version = target.with_name(f".{target.name}.version")
    have = partial.stat().st_size if partial.exists() and version.exists() else 0
    headers = {"User-Agent": "unigrec", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": version.read_text()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as response:
            resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
            have = have if resumed else 0
            expected = _expected_bytes(response, have)
            _refuse_size(url, target, expected, have, max_bytes)
            if tag := response.headers.get("ETag") or response.headers.get("Last-Modified"):
                version.write_text(tag)
            else:
                version.unlink(missing_ok=True)
            report(f"{url}: {_megabytes(expected)}" + (f", going on at {_megabytes(have)}" if resumed else ""))
            with partial.open("ab" if resumed else "wb") as stream:
                _copy(response, stream, url, expected, max_bytes, report)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            partial.unlink(missing_ok=True)
            raise UnigrecError(
                f"{url}: the partial download does not fit the file there; run the command again"
            ) from error
        hint = f"is the category spelled as on the site ({examples})?" if error.code == 404 else "try again later"
        raise UnigrecError(f"{url}: the server answers {error.code} {error.reason}; {hint}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise UnigrecError(
            f"{url}: the download stopped ({reason}); check the network, then run the same command again to go on"
        ) from error
    except OSError as error:
        raise UnigrecError(f"{target}: could not be written: {error}") from error
    _finish(url, partial, version, target, expected)


def _expected_bytes(response: http.client.HTTPResponse, have: int) -> int | None:
    length = response.headers.get("Content-Length")
    return int(length) + have if length and length.isdigit() else None


def _refuse_size(url: str, target: Path, expected: int | None, have: int, max_bytes: int) -> None:
    if expected is None:
        return
    if expected > max_bytes:
        raise UnigrecError(f"{url}: {_megabytes(expected)}, more than the bound of {_megabytes(max_bytes)}")
    free = shutil.disk_usage(target.parent).free
    if expected - have > free:
        raise UnigrecError(f"{target.parent}: {_megabytes(expected - have)} to download, {_megabytes(free)} free")


def _copy(
    response: http.client.HTTPResponse,
    stream: BinaryIO,
    url: str,
    expected: int | None,
    max_bytes: int,
    report: Callable[[str], None],
) -> None:
    last = time.monotonic()
    while chunk := response.read(CHUNK_BYTES):
        stream.write(chunk)
        if stream.tell() > max_bytes:
            raise UnigrecError(f"{url}: more than the bound of {_megabytes(max_bytes)}")
        if time.monotonic() - last > REPORT_SECONDS:
            last = time.monotonic()
            share = f" ({stream.tell() / expected:.0%})" if expected else ""
            report(f"  {_megabytes(stream.tell())}{share}")


def _finish(url: str, partial: Path, version: Path, target: Path, expected: int | None) -> None:
    """Rename the partial file, if it is whole and of the kind that its name promises."""
    size = partial.stat().st_size
    if expected is not None and size < expected:
        raise UnigrecError(
            f"{url}: the connection ended after {size:,} of {expected:,} bytes; run the same command again"
        )
    with partial.open("rb") as stream:
        start = stream.read(len(MAGIC[target.suffix]))
    version.unlink(missing_ok=True)
    if start != MAGIC[target.suffix]:
        partial.unlink()
        raise UnigrecError(
            f"{url}: the answer is no {target.suffix} file (an error page, perhaps); open it in a browser"
        )
    partial.replace(target)


def _unpacked(folder: Path) -> list[Path]:
    """Ratings and movies of one kind, where both stand in the folder."""
    for suffix in (".dat", ".csv"):
        pair = [folder / f"ratings{suffix}", folder / f"movies{suffix}"]
        if all(path.exists() for path in pair):
            return pair
    return []


def _unpack(archive: Path, folder: Path, max_bytes: int) -> list[Path]:
    """Take the files we read (and their README) out of the archive, by their bare names; remove the archive."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [info for info in opened.infolist() if info.filename.rpartition("/")[2] in MOVIELENS_FILES]
            if sum(info.file_size for info in members) > max_bytes:
                raise UnigrecError(f"{archive}: unpacks to more than the bound of {_megabytes(max_bytes)}")
            for info in members:
                with atomic_path(folder / info.filename.rpartition("/")[2]) as temporary, temporary.open("wb") as out:
                    shutil.copyfileobj(opened.open(info), out, CHUNK_BYTES)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        archive.unlink()
        raise UnigrecError(f"{archive}: damaged archive ({error}), removed; run the same command again") from error
    if not (files := _unpacked(folder)):
        raise UnigrecError(
            f"{archive}: holds no ratings and movies that `ingest` can read; such as {EXAMPLES['movielens']}"
        )
    archive.unlink()
    return files


def _megabytes(count: int | None) -> str:
    return "unknown size" if count is None else f"{count / 1e6:,.1f} MB"
