"""Download a public data set from its official address into a folder that `ingest` reads.

No other data code needs a network: the pipeline reads local files alone. Terms of use are the publishers': see the
addresses below.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import httpx

from unigrec.base.errors import UnigrecError
from unigrec.base.files import atomic_path
from unigrec.base.loopback import drop_proxies_that_httpx_refuses

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
MAX_BYTES = 64 * 2**30  # per file; no category of these data sets is larger


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

    A file that exists is kept. A download that is cut off leaves nothing and starts again at the next call.

    Args:
        base_url: a mirror with the same layout, instead of the official address.
        max_bytes: bound on the size of each file, and of what an archive unpacks to.
        timeout: seconds without a byte before the download is given up.
        report: takes a line for the user: address and size, progress, SHA-256.

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
    drop_proxies_that_httpx_refuses()
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
            _download(url, target, EXAMPLES[source], max_bytes=max_bytes, timeout=timeout, report=report)
        files.append(target)
    return _unpack(files[0], folder, max_bytes) if source == "movielens" else files


def _download(
    url: str, target: Path, examples: str, *, max_bytes: int, timeout: float, report: Callable[[str], None]
) -> None:
    """Stream into a temporary file next to `target`, check it, and rename it. Raises UnigrecError."""
    headers = {"User-Agent": "unigrec", "Accept-Encoding": "identity"}
    digest, start, last = hashlib.sha256(), b"", time.monotonic()
    try:
        with (
            httpx.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response,
            atomic_path(target) as temporary,
            temporary.open("wb") as file,
        ):
            _check_answer(url, target.parent, response, examples, max_bytes)
            report(f"{url}: {_megabytes(_size(response))}")
            for chunk in response.iter_raw(CHUNK_BYTES):
                if file.tell() + len(chunk) > max_bytes:
                    raise UnigrecError(f"{url}: more than the bound of {_megabytes(max_bytes)}")
                file.write(chunk)
                digest.update(chunk)
                start = start or chunk
                if time.monotonic() - last > REPORT_SECONDS:
                    last = time.monotonic()
                    report(f"  {_megabytes(file.tell())}")
            if not start.startswith(MAGIC[target.suffix]):
                raise UnigrecError(
                    f"{url}: the answer is no {target.suffix} file (an error page, perhaps); open it in a browser"
                )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise UnigrecError(
            f"{url}: the download stopped ({reason}); check the network, then run the same command again"
        ) from error
    report(f"{target}: sha256 {digest.hexdigest()}")


def _check_answer(url: str, folder: Path, response: httpx.Response, examples: str, max_bytes: int) -> None:
    """Raises UnigrecError for an answer that is no file, or one that is too large for the bound or the disk."""
    if response.status_code != httpx.codes.OK:
        missing = response.status_code == httpx.codes.NOT_FOUND
        hint = f"is the category spelled as on the site (such as {examples})?" if missing else "try again later"
        raise UnigrecError(f"{url}: the server answers {response.status_code} {response.reason_phrase}; {hint}")
    size, free = _size(response) or 0, shutil.disk_usage(folder).free
    if size > max_bytes:
        raise UnigrecError(f"{url}: {_megabytes(size)}, more than the bound of {_megabytes(max_bytes)}")
    if size > free:
        raise UnigrecError(f"{folder}: {_megabytes(size)} to download, {_megabytes(free)} free")


def _size(response: httpx.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _unpacked(folder: Path) -> list[Path]:
    """Ratings and movies of one kind, if the folder holds both; else nothing."""
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
