"""Cases of bad input in which the files can be read but their values make little or no sense."""

from __future__ import annotations

import time
import unicodedata
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa

from support.shop import (
    EACH,
    ITEMS,
    MOMENT,
    ROWS,
    USERS,
    Case,
    accepted,
    both_ids,
    column,
    csv_bytes,
    interactions,
    invalid,
    item_column,
    items,
    refused,
    with_first,
    write,
    write_csv,
)

TOMORROW_BUT_ONE = int(time.time()) + 3 * 86_400
NO_UTF8 = pa.Array.from_buffers(
    pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")]
)
TICKS = 621_355_968_000_000_000  # .NET counts from the year 1
KNOWN = "every interaction's item is in the items table"
TEXT = "at least 95 % of the items have some text"
RANGE = "timestamps are unix seconds from 0"


def more_rows(*rows: tuple):
    """Add rows to good interactions."""

    def breaks(folder: Path) -> None:
        log = interactions()
        for values, added in zip(log.values(), zip(*rows, strict=True), strict=True):
            values.extend(added)
        write(folder, log)

    return breaks


def only(rows: int):
    return lambda folder: write(folder, {name: values[:rows] for name, values in interactions().items()})


def numbered(kind: type, offset: int = 0):
    """Write item ids as numbers in both files: offset, offset + 1, ..."""

    def breaks(folder: Path) -> None:
        log, catalogue = interactions(), items()
        for columns in (log, catalogue):
            columns["item_id"] = pa.array(
                np.array([int(item[1:]) + offset for item in columns["item_id"]]).astype(kind)
            )
        write(folder, log, catalogue)

    return breaks


def decimals(folder: Path) -> None:
    """Item ids as a database writes whole numbers."""
    log, catalogue = interactions(), items()
    for columns in (log, catalogue):
        columns["item_id"] = pa.array([Decimal(int(item[1:])) for item in columns["item_id"]], pa.decimal128(38, 0))
    write(folder, log, catalogue)


def calendar_numbers(good: list[int]) -> list[int]:
    return [int(datetime.fromtimestamp(moment, UTC).strftime("%Y%m%d%H%M%S")) for moment in good]


def csv_dates(form: str):
    """CSV whose times are texts in a format of `strftime`."""

    def breaks(folder: Path) -> None:
        log = interactions()
        log["timestamp"] = [datetime.fromtimestamp(moment, UTC).strftime(form) for moment in log["timestamp"]]
        write_csv(folder, log)

    return breaks


def bot(folder: Path) -> None:
    rows = [("bot", f"i{row % ITEMS}", MOMENT + row) for row in range(5000)]
    more_rows(*rows)(folder)


def lonely(folder: Path) -> None:
    """Give every user one interaction only: the 5-core is empty."""
    write(folder, {**interactions(), "user_id": [f"u{row}" for row in range(ROWS)]})


def few_users(folder: Path) -> None:
    """Only 40 users have ten interactions, so fewer than 50 survive the 5-core."""
    log = interactions()
    log["user_id"] = [
        user if row < 40 * EACH or row % EACH < 4 else f"x{row}" for row, user in enumerate(log["user_id"])
    ]
    write(folder, log)


def wide(folder: Path) -> None:
    extra = {f"column_{number}": [number] * ROWS for number in range(300)}
    write(folder, {**interactions(), **extra})


def nested_texts(folder: Path) -> None:
    struct = pa.array([{"de": "Lampe", "en": "lamp"}] * ITEMS)
    lists = pa.array([[["a"], ["b"]]] * ITEMS)
    maps = pa.array([[("size", "L")]] * ITEMS, pa.map_(pa.string(), pa.string()))
    write(folder, None, {**items(), "names": struct, "tree": lists, "facts": maps, "price": [Decimal("1.50")] * ITEMS})


def extra_items(folder: Path) -> None:
    catalogue = items()
    catalogue["item_id"] += ["never sold", "nor this"]
    catalogue["title"] += ["A shelf", "A desk"]
    write(folder, None, catalogue)


def fewer_items(folder: Path) -> None:
    write(folder, None, {name: values[:-1] for name, values in items().items()})


def repeated_item(folder: Path) -> None:
    write(folder, None, {name: [*values, values[3]] for name, values in items().items()})


CASES: list[Case] = [
    # Times
    accepted("milliseconds", column("timestamp", lambda good: [1000 * t for t in good]), interactions=ROWS),
    refused("some milliseconds", column("timestamp", with_first(MOMENT * 1000)), "like 1 of 600 rows"),
    accepted("nanoseconds", column("timestamp", lambda good: [t * 10**9 for t in good]), interactions=ROWS),
    accepted("one number per date and time", column("timestamp", calendar_numbers), interactions=ROWS, ties=0.0),
    refused("ticks of another epoch", column("timestamp", lambda good: [TICKS + t for t in good]), "from another year"),
    refused("days of a spreadsheet", column("timestamp", lambda good: [41_772.5] * len(good)), "days of a spreadsheet"),
    invalid("times in the future", column("timestamp", with_first(TOMORROW_BUT_ONE)), f"{RANGE}.*broken by 1 of 600"),
    invalid("negative times", column("timestamp", with_first(-1, -2)), f"{RANGE}.*broken by 2 of 600.*-1, -2"),
    invalid("no time", column("timestamp", with_first(None)), "no timestamp is null; broken by 1 of 600.*row 0"),
    invalid("not a number as time", column("timestamp", with_first(float("nan"))), "no timestamp is null; broken by 1"),
    invalid("no times at all", column("timestamp", lambda good: pa.nulls(len(good))), "no timestamp is null"),
    refused("an infinite time", column("timestamp", with_first(float("inf"))), "'timestamp' holds inf"),
    accepted("a fraction of a second", column("timestamp", with_first(MOMENT + 0.5)), interactions=ROWS),
    refused("a time too large for a number", column("timestamp", with_first(1e300)), "'timestamp' holds 1e\\+300"),
    accepted("texts as times", column("timestamp", lambda good: [str(t) for t in good]), interactions=ROWS, ties=0.0),
    refused("a text among the times", csv_bytes(lambda old: old + b"u1,i1,soon\n"), "holds text, such as 'soon'"),
    refused("a date among the times", csv_bytes(lambda old: old.replace(b"1400000000", b"2014-05-13")), "holds text"),
    accepted("dates in CSV", csv_dates("%Y-%m-%d %H:%M:%S"), interactions=ROWS, ties=0.0),
    accepted("days before months", csv_dates("%d/%m/%Y %H:%M:%S"), interactions=ROWS, ties=0.0),
    refused("days or months first", csv_dates("%m/%m/%Y"), "two readings: day before month, and month before day"),
    refused(
        "a time of day", column("timestamp", lambda good: pa.array([5] * len(good), pa.time64("us"))), "of type time64"
    ),
    refused("a duration", column("timestamp", lambda good: pa.array(good, pa.duration("s"))), "of type duration"),
    accepted("decimal times", column("timestamp", lambda good: [Decimal(t) for t in good]), interactions=ROWS),
    refused("yes and no as times", column("timestamp", lambda good: [True] * len(good)), "of type bool"),
    refused(
        "a date beyond all calendars",
        column("timestamp", lambda good: pa.array([2**62, *good[1:]], pa.timestamp("ms"))),
        "'timestamp' holds a date beyond all calendars",
    ),
    accepted(
        "half-precision times",
        column("timestamp", lambda good: pa.array(np.arange(len(good), dtype=np.float16))),
        interactions=ROWS,
    ),
    accepted("scientific notation", csv_bytes(lambda old: old.replace(b"1400000000", b"1.4e9")), interactions=ROWS),
    accepted(
        "dates and times",
        column("timestamp", lambda good: [datetime.fromtimestamp(t) for t in good]),
        interactions=ROWS,
    ),
    accepted(
        "all times equal", column("timestamp", lambda good: [MOMENT] * len(good)), "warning: .*carry one time", ties=1.0
    ),
    accepted("small numbers as times", column("timestamp", lambda good: list(range(len(good)))), interactions=ROWS),
    # Ids
    invalid(
        "a user without id", column("user_id", with_first(None)), "no user_id is null or blank; broken by 1 of 600"
    ),
    invalid("an empty id", column("item_id", with_first("")), "no item_id is null or blank; broken by 1 of 600"),
    invalid("a blank id", column("user_id", with_first(" \t")), "no user_id is null or blank; broken by 1 of 600"),
    invalid(
        "no ids at all",
        column("user_id", lambda good: pa.nulls(len(good))),
        "no user_id is null or blank; broken by 600",
    ),
    accepted("an id of a megabyte", both_ids(lambda item: item * 2**18 if item == "i7" else item), items=ITEMS),
    accepted("ids with line breaks", both_ids(lambda item: f"{item}\nline\r\n"), items=ITEMS),
    accepted("ids with NUL", both_ids(lambda item: f"{item}\0x"), items=ITEMS),
    accepted("ids with control characters", both_ids(lambda item: f"\x1b[31m{item}\x07\u202e"), items=ITEMS),
    accepted("ids of emoji", both_ids(lambda item: f"{item} 👩‍🚀"), items=ITEMS),
    accepted("ids that look like paths", both_ids(lambda item: f"../../{item}"), items=ITEMS),
    refused(
        "ids that are no UTF-8",
        column("user_id", lambda good: pa.chunked_array([NO_UTF8, pa.array(good[1:])])),
        "'user_id' holds bytes that are no UTF-8",
    ),
    invalid("blanks around an id", column("item_id", with_first(" i0")), f'{KNOWN}.*such as " i0"'),
    invalid(
        "ids in other case", column("item_id", lambda good: [item.upper() for item in good]), f"{KNOWN}; broken by 600"
    ),
    invalid(
        "one letter in two encodings",
        lambda folder: write(
            folder,
            {**interactions(), "item_id": ["é" if i == "i1" else i for i in interactions()["item_id"]]},
            {**items(), "item_id": [unicodedata.normalize("NFD", "é") if i == "i1" else i for i in items()["item_id"]]},
        ),
        f"{KNOWN}; broken by 22",
    ),
    accepted("whole numbers as ids", numbered(np.int64), items=ITEMS),
    accepted("whole numbers as floats", numbered(np.float64), items=ITEMS),
    accepted("huge whole numbers as ids", numbered(np.uint64, 2**63), items=ITEMS),
    refused("floats that may have been rounded", numbered(np.float64, 2**53), r"'item_id' holds 9007.* as a float"),
    refused("fractions as ids", column("user_id", lambda good: [0.5] * len(good)), "'user_id' holds 0.5"),
    accepted("decimal ids", decimals, items=ITEMS),
    refused("decimal fractions as ids", column("user_id", lambda good: [Decimal("0.5")] * len(good)), "holds 0.5"),
    refused("lists as ids", column("user_id", lambda good: [[user] for user in good]), "'user_id' is of type list"),
    refused("structs as ids", column("user_id", lambda good: [{"id": user} for user in good]), "is of type struct"),
    invalid(
        "numbers here and texts there",
        column("item_id", lambda good: [int(item[1:]) for item in good]),
        f"{KNOWN}; broken by 600",
    ),
    accepted("categories", column("user_id", lambda good: pa.array(good).dictionary_encode()), users=USERS),
    # Amounts of data
    invalid(
        "many duplicates",
        lambda folder: write(folder, {n: v * 2 for n, v in interactions().items()}),
        "at most 1 % .*broken by 600 of 1200",
    ),
    accepted(
        "a few duplicates", more_rows(("u0", "i0", MOMENT), ("u0", "i0", MOMENT)), duplicates=2, interactions=ROWS
    ),
    accepted(
        "the same item again and again",
        column("item_id", lambda good: [item if row % 10 else "i0" for row, item in enumerate(good)]),
        interactions=ROWS,
    ),
    invalid("a single user", column("user_id", lambda good: ["u"] * len(good)), "at least 50 users; found 1"),
    refused("a single item", column("item_id", lambda good: ["i1"] * len(good)), "left 1 items, fewer than prepare"),
    invalid("a single interaction", only(1), "at least 500 interactions; found 1"),
    invalid("a 5-core of nothing", lonely, "the 5-core has users"),
    refused("a 5-core of too few", few_users, r"left 40 users, fewer than prepare\.min_users_after = 50"),
    accepted("a user with thousands of rows", bot, longest=5000, users=USERS + 1),
    # Items
    invalid("interactions of unknown items", fewer_items, f'{KNOWN}; broken by .*such as "i23"'),
    invalid("an item twice", repeated_item, "no item_id is there twice; broken by 2"),
    accepted("items that nobody bought", extra_items, items=ITEMS),
    invalid(
        "an item without id", item_column("item_id", with_first(None)), "no item_id is null or blank; broken by 1 of 24"
    ),
    invalid("items without text", item_column("title", with_first(None, " ")), f"{TEXT}.*broken by 2 of 24.*i0.*i1"),
    accepted("one item without text", item_column("title", with_first(None)), items=ITEMS),
    invalid("no text at all", item_column("title", lambda good: pa.nulls(len(good))), TEXT),
    accepted("numbers instead of texts", item_column("title", lambda good: list(range(len(good)))), dropped=[]),
    accepted(
        "HTML as text",
        item_column("title", lambda good: ["<b>&amp;<script>alert(1)</script>"] * len(good)),
        items=ITEMS,
    ),
    accepted("a text of ten megabytes", item_column("title", with_first("lamp " * 2**21)), items=ITEMS),
    refused(
        "texts that are no UTF-8",
        item_column("title", lambda good: pa.chunked_array([NO_UTF8, pa.array(good[1:])])),
        "'title' holds bytes that are no UTF-8",
    ),
    accepted("nested types", nested_texts, dropped=["names", "facts", "price"]),
    accepted("hundreds of other columns", wide, interactions=ROWS),
    accepted("ratings", lambda folder: write(folder, {**interactions(), "rating": [1.0] * ROWS}), interactions=ROWS),
]
