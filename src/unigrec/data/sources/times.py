"""Times as whole unix seconds: from numbers of any unit, dates, and texts of numbers or dates.

What has one reading is converted, with a remark; what has two is an error that names both. Fractions are rounded down.
"""

from __future__ import annotations

import datetime
import itertools
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from unigrec.base.errors import UnigrecError
from unigrec.data.sources.date_texts import TwoReadings, read_dates
from unigrec.data.sources.duck import query_tables

SECONDS_BELOW = 10**11  # as seconds this is the year 5138; as milliseconds, March 1973
UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")  # a thousand of each make one of the one before
EARLIEST = 788_918_400  # 1995: a shop's last time, converted from a finer unit, is not before it
SPREADSHEET_DAYS = (20_000, 80_000)  # days since 1899-12-30, from 1954 to 2119
DIGITS_OF_CALENDAR = {
    8: "YYYYMMDD",
    10: "YYYYMMDDhh",
    12: "YYYYMMDDhhmm",
    14: "YYYYMMDDhhmmss",
    17: "YYYYMMDDhhmmssSSS",
}
CALENDAR_YEARS = (1990, 2100)

EDGES = [1, *(SECONDS_BELOW * 1000**power for power in range(len(UNITS) - 1)), 2**63 - 1]  # of the units; 0 has all

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
WHOLE = r"^[+-]?\d+$"
NO_ZONE = "holds times without a zone: taken as UTC"
DAYS = "holds days without a time: taken as midnight UTC; the interactions of a day keep the order of the rows"


class Place(NamedTuple):
    """The column that is read, for messages. is_whole: what is read is all of it, so that messages count its rows."""

    file: str
    column: str
    is_whole: bool = True

    def error(self, what: str) -> UnigrecError:
        """An error that begins with the whole path."""
        return UnigrecError(f"{self.file}: column {self.column!r} {what}")

    def remark(self, what: str) -> str:
        """A sentence that begins with the file's name alone: it is the same wherever the data lies."""
        return f"{Path(self.file).name}: column {self.column!r} {what}"


def to_seconds(column: pa.ChunkedArray, place: Place, notes: list[str]) -> pa.ChunkedArray:
    """Times as int64 unix seconds, UTC; nulls stay. Remarks on what was converted are appended to `notes`.

    Raises:
        UnigrecError: the column holds no times, or times with more than one reading.
    """
    kind = column.type
    if pa.types.is_null(kind) or column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(column), pa.int64())])
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _of_texts(column.cast(pa.string()), place, notes)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _of_dates(column, place, notes)
    if pa.types.is_floating(kind):
        return _of_floats(column, place, notes)
    if pa.types.is_decimal(kind):
        column = pc.floor(column.cast(pa.decimal256(76, kind.scale)))
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        try:
            whole = column.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise UnigrecError(
                f"{place.file}: cannot be read as whole seconds: column {place.column!r} holds a number beyond all "
                f"units ({error}); write unix seconds"
            ) from error
        return _of_numbers(whole, place, notes)
    raise place.error(f"is of type {kind}; write unix seconds (integers) or a datetime")


# --- numbers ---------------------------------------------------------------------------------------------------------


def _of_floats(column: pa.ChunkedArray, place: Place, notes: list[str]) -> pa.ChunkedArray:
    bits = column.type.bit_width
    column = column.cast(pa.float64())
    column = pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
    largest = pc.max(pc.abs(column)).as_py() or 0.0
    if largest >= 2.0**63:
        at = column.filter(pc.equal(pc.abs(column), largest))[0].as_py()
        raise place.error(f"holds {at!r}; write whole numbers, unix seconds")
    whole = pc.floor(column)
    fractions = pc.all(pc.equal(whole, column)).as_py() is False  # None: all are missing
    if fractions and SPREADSHEET_DAYS[0] <= pc.min(column).as_py() and largest <= SPREADSHEET_DAYS[1]:
        day = datetime.date(1899, 12, 30) + datetime.timedelta(days=largest)
        raise place.error(
            f"holds {largest!r}: the days of a spreadsheet (that is {day}), or seconds of 1970; write dates, or unix "
            "seconds"
        )
    # Half-precision and single-precision numbers skip whole seconds, double-precision ones nanoseconds alone.
    exact_below = {16: 2**11, 32: 2**24, 64: 2**63}[bits]
    if largest >= exact_below:
        raise place.error(
            f"holds {largest!r} as a float, which from {exact_below:,} on is rounded: different times have become one; "
            "write integers"
        )
    return _of_numbers(whole.cast(pa.int64()), place, notes)


def _of_numbers(column: pa.ChunkedArray, place: Place, notes: list[str]) -> pa.ChunkedArray:
    """Whole numbers of one unit as seconds; zero has every unit."""
    calendar = _of_calendar_numbers(column, place, notes)
    if calendar is not None:
        return calendar
    lowest = pc.min(column).as_py()
    if lowest is None:
        return column
    size = pc.abs(pc.if_else(pc.equal(column, -(2**63)), pa.scalar(0, pa.int64()), column))
    counts = [
        pc.sum(pc.and_(pc.greater_equal(size, low), pc.less(size, high))).as_py() or 0
        for low, high in itertools.pairwise(EDGES)
    ]
    used = [power for power, count in enumerate(counts) if count]
    if len(used) > 1:
        largest = column.filter(pc.equal(size, pc.max(size)))[0].as_py()
        count = f" (like {sum(counts[used[0] + 1 :]):,} of {len(column):,} rows)" if place.is_whole else ""
        raise place.error(
            f"holds {largest}, as seconds beyond the year 5138{count}, next to "
            f"{UNITS[used[0]]}: it looks like {UNITS[used[-1]]} or finer; divide by 1000 (or more), or separate the "
            "two: the unit must be one"
        )
    if not used or used == [0]:
        if SPREADSHEET_DAYS[0] <= lowest and pc.max(column).as_py() <= SPREADSHEET_DAYS[1]:
            day = datetime.date(1899, 12, 30) + datetime.timedelta(days=lowest)
            notes.append(
                place.remark(
                    f"holds {lowest}: taken as seconds of 1970. If these are days of a spreadsheet ({day}), write dates"
                )
            )
        return column
    unit, factor = UNITS[used[0]], 1000 ** used[0]
    seconds = _floor_divide(column, factor)
    last = pc.max(seconds).as_py()
    if last < EARLIEST:
        raise place.error(
            f"holds {pc.max(column).as_py()}: as {unit} the last time is {_day(last)}, as seconds it is beyond "
            "the year 5138, and it may count from another year than 1970; write unix seconds"
        )
    notes.append(place.remark(f"holds {unit}: divided by {factor:,}"))
    return seconds


def _floor_divide(column: pa.ChunkedArray, factor: int) -> pa.ChunkedArray:
    rest = pc.subtract(column, pc.multiply(pc.divide(column, factor), factor))
    return pc.subtract(pc.divide(column, factor), pc.if_else(pc.less(rest, 0), 1, 0))


def _of_calendar_numbers(column: pa.ChunkedArray, place: Place, notes: list[str]) -> pa.ChunkedArray | None:
    """Numbers such as 20201031235959 as seconds; None if a single one is not such a date."""
    ends = pc.min_max(column)
    low, high = ends["min"].as_py(), ends["max"].as_py()
    if low is None or not like_calendar(low, high):
        return None
    digits, read = len(str(high)), calendar_seconds(column)
    if read.null_count != column.null_count:
        return None
    notes.append(place.remark(f"holds numbers such as {high}: read as {DIGITS_OF_CALENDAR[digits]}, UTC"))
    return read


def like_calendar(low: int, high: int) -> bool:
    """Whether the least and the largest of some numbers have the digits of a date, and as many of them."""
    digits = len(str(high))
    if low < 0 or len(str(low)) != digits or digits not in DIGITS_OF_CALENDAR:
        return False
    return CALENDAR_YEARS[0] <= int(str(low)[:4]) <= int(str(high)[:4]) < CALENDAR_YEARS[1]


def calendar_seconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers such as 20201031235959 as seconds; null for one that is no date."""
    date = "strptime(substr(rpad(x::VARCHAR, 17, '0'), 1, 14), '%Y%m%d%H%M%S')"
    return query_tables(f"SELECT epoch(try({date}))::BIGINT AS s FROM t", t=pa.table({"x": column}))["s"]


def _day(seconds: int) -> str:
    return (datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)).date().isoformat()


# --- dates -----------------------------------------------------------------------------------------------------------


def _of_dates(column: pa.ChunkedArray, place: Place, notes: list[str]) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_date(kind):
        notes.append(place.remark(DAYS))
    elif kind.tz is None:
        notes.append(place.remark(NO_ZONE))
    unit = "ns" if pa.types.is_timestamp(kind) and kind.unit == "ns" else "us"
    try:
        column = column.cast(pa.timestamp(unit))
    except pa.ArrowInvalid as error:
        raise place.error(f"holds a date beyond all calendars ({error})") from error
    return pc.floor_temporal(column, unit="second").cast(pa.timestamp("s")).cast(pa.int64())


def _of_texts(column: pa.ChunkedArray, place: Place, notes: list[str]) -> pa.ChunkedArray:
    column = pc.utf8_trim_whitespace(column)
    column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
    given = len(column) - column.null_count
    numbers = pc.match_substring_regex(column, NUMBER)
    count = pc.sum(numbers).as_py() or 0
    if given and not count:
        return _of_date_texts(column, place, notes)
    if count != given:
        raise _no_time(place, column.filter(pc.invert(numbers)).drop_null()[0].as_py())
    if pc.all(pc.match_substring_regex(column, WHOLE)).as_py() is False:
        return _of_floats(column.cast(pa.float64()), place, notes)
    try:
        return _of_numbers(pc.replace_substring_regex(column, r"^\+", "").cast(pa.int64()), place, notes)
    except pa.ArrowInvalid as error:
        raise place.error(f"holds a number beyond all units ({error}); write unix seconds") from error


def _no_time(place: Place, example: str) -> UnigrecError:
    return place.error(
        f"holds text, such as {example[:80]!r}; write unix seconds as integers (1404172800), or dates and times as ISO "
        "8601 has them (2014-07-01T00:00:00Z)"
    )


def _of_date_texts(column: pa.ChunkedArray, place: Place, notes: list[str]) -> pa.ChunkedArray:
    try:
        read = read_dates(column)
    except TwoReadings as error:
        raise place.error(str(error)) from error
    if read.unread is not None:
        raise _no_time(place, read.unread)
    notes += [place.remark(remark) for remark in [read.order] if remark]
    if read.without_zone:
        notes.append(place.remark(NO_ZONE if read.clock else DAYS))
    return read.seconds
