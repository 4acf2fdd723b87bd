"""The review dumps of 2014 and 2023 (McAuley lab, UCSD), as downloaded: JSON lines, one category per folder.

2014 (He & McAuley, WWW 2016): `reviews_<Category>[_5].json.gz` and `meta_<Category>.json.gz`, whose lines are Python
literals. 2023 (Hou et al., arXiv 2403.03952): `<Category>.jsonl.gz` and `meta_<Category>.jsonl.gz`; times in
milliseconds, products grouped under `parent_asin`. Files are streamed: memory grows with the resulting tables, not with
the files.
"""

from __future__ import annotations

import ast
import html
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from unigrec.base.errors import UnigrecError
from unigrec.data.sources.files import read_lines

SUFFIXES = (".json", ".json.gz", ".jsonl", ".jsonl.gz")
BATCH_ROWS = 65_536  # Python objects that are kept before they become Arrow memory


class _Format(NamedTuple):
    """Field names of one edition, and the prefix of its file of reviews."""

    reviews_prefix: str
    user: str
    item: str
    rating: str
    time: str
    per_second: int
    texts: Callable[[dict], dict[str, str | None]]
    columns: tuple[str, ...]


def read_amazon(folder: Path, edition: str, min_rating: float) -> tuple[pa.Table, pa.Table, list[Path]]:
    """Read one category of an edition, `amazon-2014` or `amazon-2023`.

    Items are those with at least one review left, in the order of the metadata. Items without metadata come last, and
    have no text.

    Returns:
        interactions (user_id, item_id, timestamp in unix seconds), items (item_id, texts), the two files read.

    Raises:
        UnigrecError: a file is missing, damaged or not unique, or a line is broken (file and line number are named).
    """
    form = _FORMATS[edition]
    reviews, metadata = _find(folder, edition, form)
    interactions = _read_reviews(reviews, form, min_rating)
    if interactions.num_rows == 0:
        raise UnigrecError(f"{reviews}: no review with a rating of at least {min_rating}; lower ingest.min_rating")
    items = _read_metadata(metadata, form, pc.unique(interactions["item_id"]))
    return interactions, items, [reviews, metadata]


def _find(folder: Path, edition: str, form: _Format) -> tuple[Path, Path]:
    files = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES) and path.is_file())
    metadata = [path for path in files if path.name.startswith("meta_")]
    reviews = [path for path in files if path not in metadata and path.name.startswith(form.reviews_prefix)]
    for what, found in (("reviews", reviews), ("metadata", metadata)):
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise UnigrecError(
                f"{folder}: expected one file of {what} of {edition}, found: {names}; keep one category per folder, as "
                f"`unigrec fetch --source {edition} --category NAME --to {folder}` makes it"
            )
    return reviews[0], metadata[0]


def _records(file: Path) -> Iterator[tuple[int, dict]]:
    for number, line in read_lines(file):
        try:
            record = _parse(line)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
            raise _broken(file, number, f"neither JSON nor a literal ({line[:80]!r})") from error
        if not isinstance(record, dict):
            raise _broken(file, number, f"expected one object per line, found {type(record).__name__}")
        yield number, record


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return ast.literal_eval(line.decode().strip())  # literals only: it can name no function


def _broken(file: Path, number: int, what: str) -> UnigrecError:
    return UnigrecError(f"{file}, line {number}: {what}; download the file again, or remove the line")


def _read_reviews(file: Path, form: _Format, min_rating: float) -> pa.Table:
    schema = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64())])
    batches, rows = [], []
    for number, record in _records(file):
        rating = _field(record, form.rating, (int, float), file, number)
        user = _field(record, form.user, (str,), file, number)
        item = _field(record, form.item, (str,), file, number)
        time = _field(record, form.time, (int,), file, number)
        if rating >= min_rating:
            rows.append((user, item, time // form.per_second))
        if len(rows) == BATCH_ROWS:
            batches.append(_batch(rows, schema))
            rows = []
    batches.append(_batch(rows, schema))
    return pa.Table.from_batches(batches, schema)


def _batch(rows: list[tuple], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else [[] for _ in schema]
    return pa.record_batch(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema
    )


def _field(record: dict, name: str, kinds: tuple[type, ...], file: Path, number: int) -> Any:
    value = record.get(name)
    if not isinstance(value, kinds) or isinstance(value, bool):
        found = f"{name!r} is {value!r}" if name in record else f"no field {name!r}"
        raise _broken(file, number, f"{found}, expected {' or '.join(kind.__name__ for kind in kinds)}")
    return value


def _read_metadata(file: Path, form: _Format, reviewed: pa.Array) -> pa.Table:
    schema = pa.schema([("item_id", pa.string()), *((name, pa.string()) for name in form.columns)])
    missing = dict.fromkeys(reviewed.to_pylist())  # an ordered set: the order of the reviews
    batches, rows = [], []
    for number, record in _records(file):
        item = _field(record, form.item, (str,), file, number)
        if item not in missing:  # no review, or described already
            continue
        del missing[item]
        texts = form.texts(record)
        rows.append((item, *(texts[name] for name in form.columns)))
        if len(rows) == BATCH_ROWS:
            batches.append(_batch(rows, schema))
            rows = []
    rows += [(item, *(None for _ in form.columns)) for item in missing]
    batches.append(_batch(rows, schema))
    return pa.Table.from_batches(batches, schema)


def _clean(value: object) -> str | None:
    """A text, or joined texts, without HTML escapes and line breaks; None for anything else and for empty text."""
    if isinstance(value, list):
        value = " ".join(part for part in value if isinstance(part, str))
    if not isinstance(value, str):
        return None
    return " ".join(html.unescape(value).split()) or None


def _path(names: object) -> str:
    """One category path as text."""
    return " > ".join(filter(None, map(_clean, names))) if isinstance(names, list) else ""


def _texts_2014(record: dict) -> dict[str, str | None]:
    paths = record.get("categories")
    return {
        "title": _clean(record.get("title")),
        "brand": _clean(record.get("brand")),
        "categories": " | ".join(filter(None, map(_path, paths))) or None if isinstance(paths, list) else None,
        "description": _clean(record.get("description")),
    }


def _texts_2023(record: dict) -> dict[str, str | None]:
    details = record.get("details")
    brand = details.get("Brand") if isinstance(details, dict) else None
    return {
        "title": _clean(record.get("title")),
        "brand": _clean(brand) or _clean(record.get("store")),
        "categories": _path(record.get("categories")) or _clean(record.get("main_category")),
        "description": _clean(record.get("description")),
        "features": _clean(record.get("features")),
    }


_TEXTS = ("title", "brand", "categories", "description")
_FORMATS = {
    "amazon-2014": _Format("reviews_", "reviewerID", "asin", "overall", "unixReviewTime", 1, _texts_2014, _TEXTS),
    "amazon-2023": _Format(
        "", "user_id", "parent_asin", "rating", "timestamp", 1000, _texts_2023, (*_TEXTS, "features")
    ),
}
