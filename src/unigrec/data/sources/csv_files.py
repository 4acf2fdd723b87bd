"""CSV of any dialect: the delimiter, the way quotes are written, the encoding and the packing are found out.

Every value is text, as it is written; only an empty field (and `\\N`, as databases write it) is a null. Three ways to
write a quote within quotes are tried in turn, and the first under which every row of the file is well formed is taken:
doubled (RFC 4180), with a backslash (Spark, MySQL), and no quoting at all.
"""

from __future__ import annotations

import csv
import io
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from unigrec.base.errors import UnigrecError
from unigrec.data.sources.duck import connection, plain_file, quoted
from unigrec.data.sources.files import MAX_LINE_BYTES, refuse_empty
from unigrec.data.sources.plain_text import encoding_of, is_packed, write_plain

DELIMITERS = (",", ";", "\t", "|", "\x01", "^", "~")
LONGEST_ROW = 2 * MAX_LINE_BYTES
HEAD_BYTES = 2**20
HEAD_ROWS = 100  # that show how many columns there are
MIXED_LINE_ENDS = "state machine reached an invalid state"
NO_UTF8 = "Invalid unicode"
LINE_END = r"(?:\r\n|\n|\r)"
BLANK_LINES = rf"(?: *{LINE_END})*"
BEFORE_HEADER = re.compile(rf"{BLANK_LINES}(?:sep=(.){LINE_END})?{BLANK_LINES}", re.IGNORECASE)  # Excel writes sep=;
BYTES_NO_UTF8 = re.compile("[\udc80-\udcff]")  # as Python's surrogateescape shows them
DATABASE_NULL = "\\N"
UNQUOTED = ("\t", "\x01")  # delimiters of files that may have no quoting at all


class Dialect(NamedTuple):
    """How a file's fields are told apart. skip: lines before the header."""

    delimiter: str
    quote: str
    escape: str
    skip: int


def read_csv(
    file: Path,
    choose: Callable[[list[str]], list[str]],
    notes: list[str],
    required: tuple[str, ...] = (),
    limit: int | None = None,
) -> pa.Table:
    """Read the columns that `choose` picks from the header's names, as text.

    Args:
        required: names that the header must hold under the right delimiter; without them, the delimiter is the one
            under which most rows have as many fields as the header.
        limit: read the first rows alone.
        notes: what was found out and a person should know is appended.

    Raises:
        UnigrecError: the file is empty, damaged, cut off, or no dialect fits all of its rows.
    """
    refuse_empty(file)
    with tempfile.TemporaryDirectory(prefix="unigrec.") as folder:
        plain, encoding = file, "utf-8"
        if is_packed(file) or (encoding := _marked(file)) != "utf-8":
            encoding = encoding_of(file)
            plain = _plain_copy(file, encoding, Path(folder), notes)
        try:
            return _read(file, plain, choose, notes, required, limit)
        except _Fixable as problem:
            if plain is not file:
                raise UnigrecError(f"{file}: cannot be read as CSV: {problem}; write it again, as UTF-8") from problem
            plain = _plain_copy(file, encoding_of(file), Path(folder), notes)
            try:
                return _read(file, plain, choose, notes, required, limit)
            except _Fixable as again:
                raise UnigrecError(f"{file}: cannot be read as CSV: {again}; write it again, as UTF-8") from again


class _Fixable(Exception):
    """What a plain copy in UTF-8 with one kind of line end mends."""


def _marked(file: Path) -> str:
    """utf-8, or another encoding that the first bytes show."""
    with file.open("rb") as stream:
        head = stream.read(4)
    return "marked" if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in head[:4] else "utf-8"


def _plain_copy(file: Path, encoding: str, folder: Path, notes: list[str]) -> Path:
    write_plain(file, encoding, folder / "plain.csv")
    _note_encoding(file, encoding, notes)
    return folder / "plain.csv"


def _note_encoding(file: Path, encoding: str, notes: list[str]) -> None:
    note = f"{file.name}: not UTF-8; read as {encoding}. If letters are wrong, save the file as UTF-8"
    if not encoding.startswith(("utf-8", "utf-16", "utf-32")) and note not in notes:
        notes.append(note)


def _read(
    file: Path,
    plain: Path,
    choose: Callable[[list[str]], list[str]],
    notes: list[str],
    required: tuple[str, ...],
    limit: int | None,
) -> pa.Table:
    dialect, names = find_dialect(_head_of(file, plain, notes), required)
    chosen = choose(names)
    complaint = ""
    for candidate in _ways_to_quote(dialect):
        try:
            table = _scan(file, plain, dialect=candidate, names=names, chosen=chosen, limit=limit)
        except _Broken as broken:
            complaint = complaint or str(broken)
            continue
        if candidate.quote or not _holds_quoted(table):
            return table
    raise UnigrecError(
        f"{file}: cannot be read as CSV, it is cut off or damaged ({complaint}); write or download it again"
    )


def _head_of(file: Path, plain: Path, notes: list[str]) -> str:
    """The beginning of a file, with the letters of its header in the encoding that they are in.

    Raises:
        UnigrecError: there is no header. _Fixable: the lines above it end in another way.
    """
    with plain.open("rb") as stream:
        content = stream.read(HEAD_BYTES)
    head = content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    before = BEFORE_HEADER.match(head)
    assert before is not None, "all of it may be missing"
    header = _first_row(head[before.end() :])
    if not header.strip():
        raise UnigrecError(f"{file}: cannot be read as CSV: it holds blank lines alone; write or download it again")
    if len(set(re.findall(LINE_END, before[0] + header))) > 1:  # DuckDB would take the first line's end for all
        raise _Fixable("its lines end in different ways")
    if BYTES_NO_UTF8.search(header):  # DuckDB skips the header, whatever its letters, and the rows may be UTF-8
        encoding = encoding_of(file)
        _note_encoding(file, encoding, notes)
        head = content.decode(encoding, "replace").removeprefix("\ufeff")
    return head


def _first_row(text: str) -> str:
    """The header, whose quoted names may hold line breaks; its first line, if no row has all its quotes in pairs."""
    quote = "'" if text.startswith("'") else '"'
    end = quotes = 0
    for line in re.finditer(LINE_END, text):
        quotes += text.count(quote, end, line.end())
        end = line.end()
        if quotes % 2 == 0:
            return text[:end]
    first = re.search(LINE_END, text)
    return text[: first.end()] if first else text


class _Broken(Exception):
    """A row that is not well formed under a dialect."""


def _ways_to_quote(dialect: Dialect) -> list[Dialect]:
    ways = [dialect, dialect._replace(escape="\\")]
    return [*ways, dialect._replace(quote="", escape="")] if dialect.delimiter in UNQUOTED else ways


def _holds_quoted(table: pa.Table) -> bool:
    """Whether a value lies in quotes: then quotes had a meaning in the file."""
    return any(pc.any(pc.match_substring_regex(column, '^".*"$')).as_py() for column in table.itercolumns())


def _scan(
    file: Path, plain: Path, dialect: Dialect, names: list[str], chosen: list[str], limit: int | None
) -> pa.Table:
    """Read the chosen columns. The number of fields of every row is checked, and that each quote is closed."""
    import duckdb

    numbered = [f"c{number}" for number in range(len(names))]  # names may repeat, or differ in case alone
    columns = ", ".join(f"'{name}': 'VARCHAR'" for name in numbered)
    picked = ", ".join(f"nullif({numbered[names.index(name)]}, {quoted(DATABASE_NULL)})" for name in chosen)
    scan = (
        f"SELECT {picked} FROM read_csv({plain_file(plain)}, auto_detect = false, header = true, "
        f"columns = {{{columns}}}, delim = {quoted(dialect.delimiter)}, quote = {quoted(dialect.quote)}, "
        f"escape = {quoted(dialect.escape)}, skip = {dialect.skip}, nullstr = '', strict_mode = true, "
        f"null_padding = false, max_line_size = {LONGEST_ROW})" + ("" if limit is None else f" LIMIT {limit}")
    )
    with connection() as database:
        try:
            return database.sql(scan).to_arrow_table().rename_columns(chosen)
        except duckdb.Error as error:
            raise _translated(file, str(error)) from error


def _translated(file: Path, message: str) -> Exception:
    """An error of DuckDB, without its advice on its own options."""
    if NO_UTF8 in message:
        return _Fixable("it holds bytes that are no UTF-8")
    if MIXED_LINE_ENDS in message:
        return _Fixable("its lines end in different ways")
    if "Maximum line size" in message or "buffer size" in message:
        return UnigrecError(
            f"{file}: a row is longer than {LONGEST_ROW:,} bytes; is a quote left open? Close it, shorten the text, or "
            "write Parquet"
        )
    line = re.search(r"CSV Error on Line: (\d+)", message)
    where = f"line {line[1]}: " if line else ""
    if fields := re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message):
        return _Broken(f"{where}Expected {fields[1]} columns, got {fields[2]}")
    if "quote" in message:
        return _Broken(f"{where}a quote is left open, or text follows a closed one")
    return _Broken(where + message.strip().splitlines()[0][:200])


def find_dialect(head: str, required: tuple[str, ...] = ()) -> tuple[Dialect, list[str]]:
    """The delimiter and the names in the header, from the beginning of a file.

    required: as in `read_csv`.
    """
    before = BEFORE_HEADER.match(head)
    assert before is not None, "all of it may be missing"
    skip, only, head = len(re.findall(LINE_END, before[0])), before[1], head[before.end() :]
    best: tuple[tuple, Dialect, list[str]] | None = None
    for place, delimiter in enumerate(DELIMITERS if only is None else [only]):
        for quote in ('"', "'") if head.startswith("'") else ('"',):
            rows = _rows(head, delimiter, quote)
            if not rows:
                continue
            names = rows[0]
            alike = Counter(map(len, rows))[len(names)] / len(rows) if len(names) > 1 else 0.0
            known = sum(name in names for name in required)
            score = (known, alike, len(names), -place)
            if best is None or score > best[0]:
                best = score, Dialect(delimiter, quote, quote, skip), names
    assert best is not None, "a head that is not blank has a first row"
    return best[1], best[2]


def _rows(head: str, delimiter: str, quote: str) -> list[list[str]]:
    """The first rows, without the last one, which may be cut off, unless it is the only one."""
    csv.field_size_limit(LONGEST_ROW)
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter, quotechar=quote)
    rows: list[list[str]] = []
    try:
        for row in reader:
            if row:
                rows.append(row)
            if len(rows) > HEAD_ROWS:
                break
    except csv.Error:  # a NUL, or a field beyond the limit: what was read so far is enough
        pass
    return rows[:-1] or rows
