"""The source `folder`: interactions and items as Parquet or CSV files, or as folders of Parquet parts.

Reading decides what a value *is* (an id is text, a time is unix seconds) and refuses what cannot be read. Rows that
make no sense (null ids, duplicates, unknown items, times out of range) are passed on unchanged: the stage `validate`
finds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.data.sources.files import MAX_LINE_BYTES, describe, readable, refuse_empty
from unigrec.data.sources.source import Source, provenance

INTERACTION_COLUMNS = ("user_id", "item_id", "timestamp")
MILLISECONDS_FROM = 10**11  # as seconds this is the year 5138; as milliseconds, March 1973
LIST_SEPARATOR = " | "  # as in the texts of the other sources; data/fields.py reads it
CSV_BLOCK_BYTES = 2 * MAX_LINE_BYTES  # a row must lie within one block
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
EXACT_BELOW = {16: 2**11, 32: 2**24, 64: 2**53}  # bits of a float: from this number on it skips integers


def load_folder(folder: Path) -> Source:
    """Read interactions and items from a folder. Raises UnigrecError for a missing, damaged or ambiguous file."""
    interactions_file = _find(folder, "interactions")
    items_file = _find(folder, "items")

    raw = _read(interactions_file, INTERACTION_COLUMNS, others=False)
    interactions = pa.table(
        {
            "user_id": _ids(raw["user_id"], interactions_file, "user_id"),
            "item_id": _ids(raw["item_id"], interactions_file, "item_id"),
            "timestamp": _seconds(raw["timestamp"], interactions_file),
        }
    )
    items, dropped = _items(_read(items_file, ("item_id",), others=True), items_file)

    described = [describe(part, folder) for file in (interactions_file, items_file) for part in _parts(file)]
    extra = {"files": described, "dropped_item_columns": dropped}
    if (folder / paths.LINEAGE_FILE).is_file():
        extra["snapshot"] = files.read_json(folder / paths.LINEAGE_FILE)
    return Source(interactions, items, provenance("folder", interactions, items, **extra))


def _find(folder: Path, name: str) -> Path:
    candidates = [folder / f"{name}.parquet", folder / f"{name}.csv"]
    for path in candidates:
        if path.is_symlink() and not path.exists():
            raise UnigrecError(f"{path}: a link that leads nowhere; bring back what it names, or put the file here")
    present = [path for path in candidates if path.exists()]
    if not present:
        inside = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        raise UnigrecError(f"{folder}: holds no {name}.parquet and no {name}.csv (found: {inside}); add one of them")
    if len(present) == 2:
        raise UnigrecError(f"{folder}: holds both {name}.parquet and {name}.csv; remove the one that is not meant")
    return present[0]


def _parts(file: Path) -> list[Path]:
    """The file itself, or the parts of a Parquet data set that a cluster wrote as a folder."""
    if not file.is_dir():
        return [file]
    if file.suffix == ".csv":
        raise UnigrecError(f"{file}: is a folder; CSV is read from a file, parts in a folder as Parquet alone")
    # A job gives files and folders such names until it is done.
    parts = sorted(
        part
        for part in file.rglob("*.parquet")
        if not any(name.startswith((".", "_")) for name in part.relative_to(file).parts)
    )
    if not parts:
        raise UnigrecError(f"{file}: a folder without *.parquet parts; write it again")
    return parts


def _read(file: Path, required: tuple[str, ...], others: bool) -> pa.Table:
    """Read the required columns; with `others`, all columns. Raises UnigrecError."""
    parts = _parts(file)
    for part in parts:
        refuse_empty(part)
    table = _read_csv(file, required, others) if file.suffix == ".csv" else _read_parquet(parts, required, others)
    if table.num_rows == 0:
        raise UnigrecError(f"{file}: has a header but no rows; a model needs data to learn from")
    return table


def _read_parquet(parts: list[Path], required: tuple[str, ...], others: bool) -> pa.Table:
    tables = []
    for part in parts:
        # ParquetFile, not read_table: the latter turns a folder named `a=b` on the way into a column.
        with readable(part, "Parquet"), pq.ParquetFile(part) as file:
            _check_columns(part, file.schema_arrow.names, required)
            tables.append(file.read(columns=None if others else list(required)))
    try:
        return pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException as error:
        raise UnigrecError(f"{parts[0].parent}: the parts differ in their columns: {error}; write all alike") from error


def _read_csv(file: Path, required: tuple[str, ...], others: bool) -> pa.Table:
    blocks = pcsv.ReadOptions(block_size=CSV_BLOCK_BYTES)
    parse = pcsv.ParseOptions(newlines_in_values=True)  # descriptions and review texts have line breaks in quotes
    with _readable_csv(file):
        with file.open("rb") as stream:
            if stream.read(2) in UTF_16_MARKS:
                raise UnigrecError(f"{file}: the file is UTF-16; save it as UTF-8")
        with pcsv.open_csv(file, read_options=blocks, parse_options=parse) as reader:
            names = reader.schema.names
        _check_columns(file, names, required)
        convert = pcsv.ConvertOptions(
            # Ids stay as they are written ("007" and "NA" are ids); only an empty field is a null.
            column_types={name: pa.string() for name in ("user_id", "item_id") if name in required},
            include_columns=names if others else list(required),
            null_values=[""],
            strings_can_be_null=True,
        )
        table = pcsv.read_csv(file, read_options=blocks, parse_options=parse, convert_options=convert)
    for name in table.column_names:
        if pa.types.is_binary(table.schema.field(name).type):  # pyarrow takes text that is not UTF-8 for binary
            raise _no_utf8(file, name)
    if "timestamp" in required and pa.types.is_temporal(table.schema.field("timestamp").type):
        # CSV has no types: a date in it is text without a time zone.
        raise _text_timestamp(file, str(table["timestamp"].drop_null()[0]))
    return table


@contextmanager
def _readable_csv(file: Path) -> Iterator[None]:
    """As `readable`; a row that is longer than a block gets an error that helps."""
    with readable(file, "CSV"):
        try:
            yield
        except pa.ArrowInvalid as error:
            if "straddling" not in str(error):
                raise
            raise UnigrecError(
                f"{file}: a row is longer than {CSV_BLOCK_BYTES:,} bytes; is a quote left open? Close it, shorten the "
                "text, or write Parquet"
            ) from error


def _check_columns(file: Path, names: list[str], required: tuple[str, ...]) -> None:
    for name in required:
        if names.count(name) == 0:
            hint = "; is it separated by commas?" if len(names) == 1 and file.suffix == ".csv" else ""
            raise UnigrecError(f"{file}: no column {name!r} (found: {', '.join(names)}){hint}; rename or add it")
    for name in names:
        if names.count(name) > 1:
            raise UnigrecError(f"{file}: two columns are named {name!r}; keep one")


# --- columns --------------------------------------------------------------------------------------------------------


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decode dictionary-encoded values (categories of pandas)."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _ids(column: pa.ChunkedArray, file: Path, name: str) -> pa.ChunkedArray:
    """Ids as text, as they are written. Integers become their digits; an empty id is a null."""
    column = _plain(column)
    kind = column.type
    if pa.types.is_floating(kind):  # pandas turns integers with gaps into floats
        column = _whole(column, file, name)
    elif not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_binary(kind) or pa.types.is_null(kind)):
        raise UnigrecError(f"{file}: column {name!r} is of type {kind}; ids must be text or integers")
    with _utf8(file, name):
        column = column.cast(pa.string())
        column.validate(full=True)
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)


@contextmanager
def _utf8(file: Path, name: str) -> Iterator[None]:
    """Context manager for validating text: Parquet and Arrow do not check UTF-8. Raises UnigrecError."""
    try:
        yield
    except pa.ArrowInvalid as error:
        raise _no_utf8(file, name) from error


def _no_utf8(file: Path, name: str) -> UnigrecError:
    return UnigrecError(f"{file}: column {name!r} holds bytes that are no UTF-8; write the file as UTF-8")


def _whole(column: pa.ChunkedArray, file: Path, name: str) -> pa.ChunkedArray:
    """Floats as int64, NaN as null. Raises UnigrecError for fractions, infinities, and numbers that may be rounded."""
    exact_below = EXACT_BELOW[column.type.bit_width]
    column = column.cast(pa.float64())
    column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    odd = column.filter(pc.not_equal(pc.subtract(column, pc.floor(column)), 0.0))  # infinity minus itself is NaN
    if len(odd):
        raise UnigrecError(f"{file}: column {name!r} holds {odd[0].as_py()!r}; write whole numbers")
    large = column.filter(pc.greater_equal(pc.abs(column), exact_below))
    if len(large):
        raise UnigrecError(
            f"{file}: column {name!r} holds {large[0].as_py()!r} as a float, which from {exact_below:,} on is rounded: "
            "different numbers have become one; write integers"
        )
    return column.cast(pa.int64())


def _seconds(column: pa.ChunkedArray, file: Path) -> pa.ChunkedArray:
    """Times as int64 unix seconds; date and time types are converted (without a zone they are read as UTC)."""
    column = _plain(column)
    kind = column.type
    if _is_text(kind) and column.null_count < len(column):  # a text column of nulls alone is a column of nulls
        number = pc.match_substring_regex(column, r"^\s*-?\d+\s*$")
        examples = column.filter(pc.invert(number)).drop_null()
        raise _text_timestamp(file, (examples if len(examples) else column.drop_null())[0].as_py())
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        column = _seconds_of_dates(column, file)
    elif pa.types.is_floating(kind):
        column = _whole(column, file, "timestamp")
    elif pa.types.is_integer(kind) or pa.types.is_null(kind) or _is_text(kind):
        with readable(file, "whole seconds"):
            column = column.cast(pa.int64())
    else:
        raise UnigrecError(f"{file}: column 'timestamp' is of type {kind}; write unix seconds (integers) or a datetime")
    _refuse_milliseconds(column, file)
    return column


def _seconds_of_dates(column: pa.ChunkedArray, file: Path) -> pa.ChunkedArray:
    unit = "ns" if column.type == pa.timestamp("ns") else "us"
    try:
        column = column.cast(pa.timestamp(unit))
    except pa.ArrowInvalid as error:
        raise UnigrecError(f"{file}: column 'timestamp' holds a date beyond all calendars ({error})") from error
    return pc.floor_temporal(column, unit="second").cast(pa.timestamp("s")).cast(pa.int64())


def _refuse_milliseconds(column: pa.ChunkedArray, file: Path) -> None:
    largest = pc.max(column).as_py()
    if largest is not None and largest > MILLISECONDS_FROM:
        rows = pc.sum(pc.greater(column, MILLISECONDS_FROM)).as_py()
        raise UnigrecError(
            f"{file}: column 'timestamp' holds {largest}, as seconds beyond the year 5138 (like {rows:,} of "
            f"{len(column):,} rows): it looks like milliseconds or finer; divide by 1000 (or more), the unit is seconds"
        )


def _text_timestamp(file: Path, example: str) -> UnigrecError:
    return UnigrecError(
        f"{file}: column 'timestamp' holds text, such as {example!r}; write unix seconds as integers (1404172800), or, "
        "in Parquet, a datetime column: a text's format and time zone are not guessed"
    )


def _items(raw: pa.Table, file: Path) -> tuple[pa.Table, list[str]]:
    """item_id and the text columns; the names of those dropped, which are neither text nor lists of it."""
    columns = {"item_id": _ids(raw["item_id"], file, "item_id")}
    dropped = []
    for name in raw.column_names:
        if name == "item_id":
            continue
        text = _text(_plain(raw[name]), file, name)
        if text is None:
            dropped.append(name)
        else:
            columns[name] = text
    return pa.table(columns), dropped


def _text(column: pa.ChunkedArray, file: Path, name: str) -> pa.ChunkedArray | None:
    """A text column with blanks as nulls, a list of texts joined; None where the column is neither."""
    kind = column.type
    is_list = (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_text(kind.value_type)
    if not (is_list or _is_text(kind) or pa.types.is_null(kind)):
        return None
    with _utf8(file, name):
        column.validate(full=True)
    if is_list:
        column = pa.chunked_array([_join(chunk) for chunk in column.chunks], pa.string())
    column = column.cast(pa.string())
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), pa.scalar(None, pa.string()), column)


def _join(lists: pa.Array) -> pa.Array:
    # A null inside a list would make the whole text null, so the texts are joined one by one.
    rows = lists.to_pylist()
    return pa.array(
        [None if row is None else LIST_SEPARATOR.join(part for part in row if part) for row in rows], pa.string()
    )
