"""What a value is, whatever type it has: ids and texts as strings. Times: times.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from unigrec.base.errors import UnigrecError
from unigrec.data.sources.duck import query_tables
from unigrec.data.sources.times import NUMBER, Place

LIST_SEPARATOR = " | "  # as in the texts of the other sources; data/fields.py reads it
EXACT_BELOW = {16: 2**11, 32: 2**24, 64: 2**53}  # bits of a float: from this number on it skips integers


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decode what a column is stored as: categories of pandas, repeated values, extension types; UUIDs become text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return plain(column.cast(kind.value_type))
    if pa.types.is_run_end_encoded(kind):
        return plain(pa.chunked_array([pc.run_end_decode(chunk) for chunk in column.chunks], kind.value_type))
    if isinstance(kind, pa.UuidType):
        return query_tables("SELECT x::VARCHAR AS x FROM t", t=pa.table({"x": column}))["x"]
    if isinstance(kind, pa.BaseExtensionType):
        return plain(pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type))
    return column


def is_text(kind: pa.DataType) -> bool:
    """Whether a type holds characters."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a type holds bytes, which may be characters without the mark that they are."""
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def is_number(kind: pa.DataType) -> bool:
    """Whether a type holds numbers."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


# --- ids -------------------------------------------------------------------------------------------------------------


def ids(column: pa.ChunkedArray, place: Place) -> pa.ChunkedArray:
    """Ids as text, as they are written. Whole numbers become their digits; an empty id is a null.

    Raises:
        UnigrecError: the column holds no ids, numbers that may have been rounded, or bytes that are no UTF-8.
    """
    column = plain(column)
    kind = column.type
    if pa.types.is_floating(kind):  # pandas turns integers with gaps into floats
        column = _whole(column, place)
    elif pa.types.is_decimal(kind):  # databases keep whole numbers so
        column = _whole_decimals(column, place)
    elif not (is_text(kind) or pa.types.is_integer(kind) or is_bytes(kind) or pa.types.is_null(kind)):
        advice = (
            "; take a part out in a query (ingest.source sql, docs/own-data.md)" if pa.types.is_nested(kind) else ""
        )
        raise place.error(f"is of type {kind}; ids must be text or integers{advice}")
    column = _as_utf8(column, place)
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)


def _as_utf8(column: pa.ChunkedArray, place: Place) -> pa.ChunkedArray:
    with _utf8(place):
        if pa.types.is_fixed_size_binary(column.type):
            column = column.cast(pa.binary())
        column = column.cast(pa.string())
        column.validate(full=True)
        return column


@contextmanager
def _utf8(place: Place) -> Iterator[None]:
    """Context manager for validating text: Parquet and Arrow do not check UTF-8. Raises UnigrecError."""
    try:
        yield
    except pa.ArrowInvalid as error:
        raise place.error("holds bytes that are no UTF-8; write the file as UTF-8") from error


def _whole(column: pa.ChunkedArray, place: Place) -> pa.ChunkedArray:
    """Floats as int64, NaN as null. Raises UnigrecError for fractions, infinities, and numbers that may be rounded."""
    exact_below = EXACT_BELOW[column.type.bit_width]
    column = _without_nan(column.cast(pa.float64()))
    odd = column.filter(pc.not_equal(pc.subtract(column, pc.floor(column)), 0.0))  # infinity minus itself is NaN
    if len(odd):
        raise place.error(f"holds {odd[0].as_py()!r}; write whole numbers")
    large = column.filter(pc.greater_equal(pc.abs(column), exact_below))
    if len(large):
        raise place.error(
            f"holds {large[0].as_py()!r} as a float, which from {exact_below:,} on is rounded: different numbers have "
            "become one; write integers"
        )
    return column.cast(pa.int64())


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


def _whole_decimals(column: pa.ChunkedArray, place: Place) -> pa.ChunkedArray:
    """Decimals as the text of their digits. Raises UnigrecError for fractions."""
    column = column.cast(pa.decimal256(76, column.type.scale))  # rounding needs a digit more
    odd = column.filter(pc.not_equal(column, pc.floor(column)))
    if len(odd):
        raise place.error(f"holds {odd[0].as_py()}; write whole numbers")
    return pc.replace_substring_regex(column.cast(pa.string()), r"\.0*$", "")


# --- texts -----------------------------------------------------------------------------------------------------------


def texts(column: pa.ChunkedArray, place: Place, named: bool, untyped: bool) -> pa.ChunkedArray | None:
    """A column as text with blanks as nulls, lists of any depth joined; None where it is no text and nobody asked.

    Args:
        named: the column is one of those that describe the items: it is read as text whatever it holds.
        untyped: the column comes from a format without types: if all of its values are numbers, it is no text.

    Raises:
        UnigrecError: a text holds bytes that are no UTF-8.
    """
    column = plain(column)
    kind = column.type
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    if is_text(kind):
        column = _as_utf8(column, place)
        if untyped and not named and all_numbers(column):
            return None
    elif is_bytes(kind):
        if not named and not _is_utf8(column):
            return None
        column = _as_utf8(column, place)
    elif pa.types.is_nested(kind):
        if not named and not _only_texts(kind):
            return None
        with _utf8(place):
            column.validate(full=True)
        column = pa.chunked_array([_joined(chunk) for chunk in column.chunks], pa.string())
    elif named:
        column = written(column)
    else:
        return None
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), pa.scalar(None, pa.string()), column)


def all_numbers(column: pa.ChunkedArray) -> bool:
    """Whether every text in a column that is not blank is a number, and one is there."""
    values = pc.utf8_trim_whitespace(column)
    numbers = pc.match_substring_regex(values, NUMBER)
    return column.null_count < len(column) and pc.all(pc.or_(numbers, pc.equal(values, ""))).as_py()


def _is_utf8(column: pa.ChunkedArray) -> bool:
    try:
        _as_utf8(column, Place("", ""))
    except UnigrecError:
        return False
    return True


def _only_texts(kind: pa.DataType) -> bool:
    """Whether a type is lists of texts, of any depth."""
    if pa.types.is_dictionary(kind):
        return _only_texts(kind.value_type)
    if pa.types.is_map(kind) or pa.types.is_struct(kind) or not pa.types.is_nested(kind):
        return is_text(kind) or is_bytes(kind)
    return hasattr(kind, "value_type") and _only_texts(kind.value_type)


def _joined(lists: pa.Array) -> pa.Array:
    # A null inside a list would make the whole text null, so the texts are joined one by one.
    rows = lists.to_pylist()
    return pa.array([None if row is None else LIST_SEPARATOR.join(leaves(row)) for row in rows], pa.string())


def leaves(value: Any) -> Iterator[str]:
    """Yield the texts inside a nested value, in order, without nulls and empty ones."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, bytes):
        yield value.decode("utf-8", "replace")
    elif value is not None and value != "":
        yield str(value)


def written(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers, dates and so on as text; whole numbers that a gap made floats lose their `.0`."""
    if pa.types.is_floating(column.type):
        column = _without_nan(column.cast(pa.float32()) if pa.types.is_float16(column.type) else column)
        if are_whole(column):
            column = column.cast(pa.int64())
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.chunked_array([pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.string())])


def are_whole(column: pa.ChunkedArray) -> bool:
    """Whether floats are whole numbers, so small that no other number was rounded to one of them."""
    whole = pc.and_(pc.equal(column, pc.floor(column)), pc.less(pc.abs(column), float(2**53)))
    return pc.all(whole).as_py() is not False
