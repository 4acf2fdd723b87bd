"""Texts of dates and times as unix seconds: ISO 8601, month names, and day and month in the order that the values show.

The formats that can be told apart are tried on every value by DuckDB. No value is guessed: what fits none is returned,
and what fits two is an error.
"""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from unigrec.data.sources.duck import query_tables, quoted

_CLOCK = r"(,?[T ]+\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?( ?[AaPp][Mm])?)?"
_ZONE = r"( ?(Z|UTC|GMT|[+-]\d{2}(:?\d{2})?))?"
ISO = rf"^\d{{4}}[-/]\d{{1,2}}[-/]\d{{1,2}}{_CLOCK}{_ZONE}$"
COMPACT = r"^(\d{4})(\d{2})(\d{2})T(\d{2}):?(\d{2}):?(\d{2})"
DAY_OR_MONTH = rf"^(\d{{1,2}})[-/.](\d{{1,2}})[-/.](\d{{4}})({_CLOCK}{_ZONE})$"
ZONED = (
    r"(Z|UTC|GMT|\d:?\d{2}(:?\d{2}([.,]\d+)?)?( ?[AaPp][Mm])? ?[+-]\d{2}(:?\d{2})?|[+-]\d{4} \d{4}|"
    r"\d:\d{2}:\d{2} [A-Za-z][\w/+-]{2,})$"  # a named zone, longer than AM and PM
)
CLOCK = r"\d:\d\d|T\d\d"
DAY_FIRST, MONTH_FIRST = r"\3-\2-\1\4", r"\3-\1-\2\4"  # replacements for DAY_OR_MONTH
# Formats whose month is a word: without and with a zone. %z stands before %Z, which takes an offset too and then fails.
WORDED = (
    *("%d %b %Y %H:%M:%S", "%d %b %Y %H:%M", "%d %b %Y", "%d-%b-%Y", "%d-%b-%Y %H:%M:%S", "%b %d, %Y", "%b %d %Y"),
    *("%b %d, %Y %H:%M:%S", "%b %d, %Y %I:%M:%S %p", "%d %B %Y", "%B %d, %Y", "%B %d %Y", "%d/%b/%Y:%H:%M:%S"),
    *("%a %b %d %H:%M:%S %Y", "%a, %d %b %Y %H:%M:%S"),
)
WORDED_ZONED = (
    *("%a, %d %b %Y %H:%M:%S %z", "%a, %d %b %Y %H:%M:%S %Z", "%d/%b/%Y:%H:%M:%S %z", "%a %b %d %H:%M:%S %z %Y"),
)


class TwoReadings(Exception):
    """The values allow two readings, or contradict each; the message names both."""


class Dates(NamedTuple):
    """What was read.

    seconds: int64, unix seconds, rounded down; nulls stay
    unread: the first value that is no date
    order: which of day and month was taken to be first, where that was a question
    clock: some values have a time of day
    without_zone: some values have no zone: they were taken as UTC
    """

    seconds: pa.ChunkedArray
    unread: str | None
    order: str | None
    clock: bool
    without_zone: bool


def read_dates(texts: pa.ChunkedArray) -> Dates:
    """Read texts without blanks around them. Raises TwoReadings."""
    table = pa.table({"x": texts})
    replacement, order = _day_or_month(table)
    iso, swapped = (
        _moment(text) for text in ("x", f"regexp_replace(x, {quoted(DAY_OR_MONTH)}, {quoted(replacement)})")
    )
    query = f"""
        SELECT CAST(floor(epoch_us(moment) / 1e6) AS BIGINT) AS seconds, x, clock, clock AND zoned AS zoned FROM (
            SELECT x, regexp_matches(x, {quoted(ZONED)}) AS zoned, regexp_matches(x, {quoted(CLOCK)}) AS clock,
                CASE WHEN regexp_matches(x, {quoted(ISO)}) THEN {iso}
                     WHEN regexp_matches(x, {quoted(DAY_OR_MONTH)}) THEN {swapped}
                     ELSE coalesce(try_strptime(x, {_list(WORDED)})::TIMESTAMPTZ,
                                   try_strptime(x, {_list(WORDED_ZONED)}))
                END AS moment
            FROM (SELECT {_separated("x")} AS x FROM t)
        )"""
    read = query_tables(query, t=table)
    unread = read.filter(pc.and_(pc.is_null(read["seconds"]), pc.is_valid(read["x"])))
    return Dates(
        read["seconds"],
        unread["x"][0].as_py() if unread.num_rows else None,
        order,
        clock=bool(pc.any(read["clock"]).as_py()),
        without_zone=pc.all(read["zoned"]).as_py() is False,
    )


def deciding_dates(texts: pa.ChunkedArray) -> list[str]:
    """Few of the texts: those that decide which of day and month is first, one with a clock, one without a zone."""
    part = "arg_max(x, TRY_CAST(regexp_extract(x, {}, {}) AS INT))"
    clock, zoned = (f"regexp_matches({_separated('x')}, {quoted(pattern)})" for pattern in (CLOCK, ZONED))
    chosen = (
        part.format(quoted(DAY_OR_MONTH), 1),
        part.format(quoted(DAY_OR_MONTH), 2),
        f"first(x) FILTER ({clock})",
        f"first(x) FILTER (NOT ({clock} AND {zoned}))",
    )
    found = query_tables(f"SELECT unnest([{', '.join(chosen)}]) AS x FROM t", t=pa.table({"x": texts}))["x"]
    return found.drop_null().to_pylist()


def _separated(text: str) -> str:
    """SQL for a text of which a compact date has separators."""
    return f"regexp_replace({text}, {quoted(COMPACT)}, '\\1-\\2-\\3 \\4:\\5:\\6')"


def _list(formats: tuple[str, ...]) -> str:
    return f"[{', '.join(map(quoted, formats))}]"


def _moment(text: str) -> str:
    """SQL for the moment of a date in the form of ISO; 12 hours and blanks before the zone are read too."""
    cast = f"regexp_replace({text}, ' +([+-]\\d{{2}}:?\\d{{0,2}})$', '\\1')"
    cast = f"regexp_replace(regexp_replace({cast}, ',?[T ]+(\\d)', ' \\1'), '[.,](\\d{{1,6}})\\d*', '.\\1')"
    half = f"try_strptime({text}, {_list(('%Y-%m-%d %I:%M:%S %p', '%Y-%m-%d %I:%M %p'))})"
    return f"coalesce(TRY_CAST({cast} AS TIMESTAMPTZ), {half}::TIMESTAMPTZ)"


def _day_or_month(table: pa.Table) -> tuple[str, str | None]:
    """The replacement that makes 31/12/2020 a date of ISO, and a remark where there are such dates."""
    parts = ", ".join(
        f"regexp_extract(x, {quoted(DAY_OR_MONTH)}, {group})::INT AS {name}" for group, name in ((1, "a"), (2, "b"))
    )
    found = query_tables(
        f"""SELECT arg_max(x, a) AS of_a, max(a) AS a, arg_max(x, b) AS of_b, max(b) AS b FROM (
            SELECT x, {parts} FROM t WHERE regexp_matches(x, {quoted(DAY_OR_MONTH)}))""",
        t=table,
    ).to_pylist()[0]
    if found["a"] is None:
        return DAY_FIRST, None
    first, second = found["a"] > 12, found["b"] > 12
    if not first and not second:
        raise TwoReadings(
            f"holds dates such as {found['of_a']!r} with two readings: day before month, and month before day; no "
            "value tells which. Write the year first (2020-12-31)"
        )
    if first and second:
        raise TwoReadings(
            f"holds dates with the day first, such as {found['of_a']!r}, and with the month first, such as "
            f"{found['of_b']!r}; write the year first (2020-12-31)"
        )
    example, order = (found["of_a"], "day before month") if first else (found["of_b"], "month before day")
    return DAY_FIRST if first else MONTH_FIRST, f"holds dates such as {example!r}: read with the {order}"
