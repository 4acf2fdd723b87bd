"""The few values of a column that decide how all of it is read: in which unit, in which order of day and month.

If they stand next to any part of the column, the part is read as it would be next to all of the column. So a column
that does not fit into memory is read twice: once for these values, then part by part.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unigrec.data.sources.date_texts import deciding_dates
from unigrec.data.sources.times import EDGES, NUMBER, WHOLE, calendar_seconds, like_calendar
from unigrec.data.sources.values import is_number, is_text

PADDED = r"^[+-]?0\d+$"  # a whole number with a zero in front: a postcode, or a code


def deciding_times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values that decide how `times.to_seconds` reads a column, in its type. What is an error alone need not be there.

    column: decoded, as `values.plain` does.
    """
    column = column.drop_null()
    if not len(column):
        return column
    if is_text(column.type):
        texts = pc.utf8_trim_whitespace(column.cast(pa.string()))
        texts = texts.filter(pc.not_equal(texts, ""))
        return pa.chunked_array([pa.array(_texts(texts), column.type)])
    if not is_number(column.type):
        return column.slice(0, 1)
    if pa.types.is_floating(column.type):
        column = column.filter(pc.invert(pc.is_nan(column.cast(pa.float64()))))
    return column.take(pa.array(sorted(set(_numbers(column))), pa.int64())) if len(column) else column


def deciding_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts that decide whether a column of text is compared as whole numbers, as numbers or as text."""
    texts = pc.utf8_trim_whitespace(column.cast(pa.string()).drop_null())
    filled = texts.filter(pc.not_equal(texts, ""))
    padded = filled.filter(pc.match_substring_regex(filled, PADDED))
    found = [*texts.slice(0, 1).to_pylist(), *_longest(filled), *_longest(padded), *_kinds(filled)]
    return pa.chunked_array([pa.array(found, column.type)])


def _texts(texts: pa.ChunkedArray) -> list[str]:
    """texts: without blanks."""
    found = list(_kinds(texts))
    if not len(texts) or pc.all(pc.invert(pc.match_substring_regex(texts, NUMBER))).as_py():
        return [*found, *deciding_dates(texts)]
    try:
        numbers = pc.replace_substring_regex(texts, r"^\+", "").cast(pa.float64())
        if pc.all(pc.match_substring_regex(texts, WHOLE)).as_py():
            numbers = pc.replace_substring_regex(texts, r"^\+", "").cast(pa.int64())
    except pa.ArrowInvalid:  # numbers next to text, or beyond all units: an error in any part that has it
        return found
    return [*found, *(texts[place].as_py() for place in sorted(set(_numbers(numbers))))]


def _kinds(texts: pa.ChunkedArray) -> Iterator[str]:
    """One text that is no number, one number with a fraction or an exponent, one whole number, the largest of these."""
    number, whole = (pc.match_substring_regex(texts, pattern) for pattern in (NUMBER, WHOLE))
    for kind in (pc.invert(number), pc.and_not(number, whole), whole):
        yield from texts.filter(kind).slice(0, 1).to_pylist()
    wholes = texts.filter(whole)
    if len(wholes):  # may be beyond what an integer holds
        digits = pc.replace_substring_regex(wholes, r"^[+-]?0*", "")
        longest = pc.equal(pc.utf8_length(digits), pc.max(pc.utf8_length(digits)))
        yield wholes.filter(longest).take(pc.sort_indices(digits.filter(longest), [("", "descending")])[:1])[0].as_py()


def _longest(texts: pa.ChunkedArray) -> list[str]:
    """The first of the longest texts, if there is any."""
    lengths = pc.utf8_length(texts)
    return texts.filter(pc.equal(lengths, pc.max(lengths))).slice(0, 1).to_pylist()


def _numbers(column: pa.ChunkedArray) -> Iterator[int]:
    """Places of the numbers that decide on a unit. column: without nulls and NaN."""
    if pa.types.is_decimal(column.type):
        column = pc.floor(column.cast(pa.decimal256(76, column.type.scale)))
        try:
            column = column.cast(pa.int64())
        except pa.ArrowInvalid:  # beyond all units
            return
    if pa.types.is_floating(column.type):
        values = column.cast(pa.float64()).to_numpy()
        yield from (int(values.argmin()), int(values.argmax()))
        if np.abs(values).max() >= 2.0**63:  # an error
            return
        yield from np.flatnonzero(values != np.floor(values))[:1].tolist()
        values = np.floor(values).astype(np.int64)
    elif pa.types.is_uint64(column.type) and pc.max(column).as_py() >= 2**63:  # an error
        return
    else:
        values = column.cast(pa.int64()).to_numpy()
    low, high = int(values.argmin()), int(values.argmax())
    yield from (low, high)
    sizes = np.abs(np.where(values == -(2**63), 0, values))
    for least, beyond in itertools.pairwise(EDGES):
        inside = (sizes >= least) & (sizes < beyond)
        if inside.any():
            yield int(np.where(inside, sizes, -1).argmax())
    if like_calendar(int(values[low]), int(values[high])):
        read = calendar_seconds(pa.chunked_array([values]))
        yield from np.flatnonzero(read.is_null().to_numpy())[:1].tolist()
