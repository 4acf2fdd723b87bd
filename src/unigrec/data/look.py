"""What a folder seems to hold: which file has the interactions, and which column is what, by names and contents.

A proposal is made from the first rows. Where two readings are possible it says so, and proposes none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from unigrec.base import paths
from unigrec.base.errors import UnigrecError
from unigrec.config.schema import ColumnsParams, FilesParams, IngestParams
from unigrec.data.sources.batches import check_columns
from unigrec.data.sources.datasets import Part, parts_of, read_part, split_ending
from unigrec.data.sources.movielens import FILES as MOVIELENS_FILES
from unigrec.data.sources.sqlite import is_sqlite, tables_of
from unigrec.data.sources.tables import Columns, interactions_of, items_of
from unigrec.data.sources.times import Place, to_seconds
from unigrec.data.sources.values import ids, texts

HEAD_ROWS = 20_000
KEY_ROWS = 2_000_000  # of a column of ids: the first rows of a long catalogue hold few of those that a log names
SHOWN_ROWS = 10
DATABASES = (".sqlite", ".sqlite3", ".db", ".duckdb")
EVENT_TYPES = 20  # a column of more values holds no types of events
MIN_MEETING = 0.5  # share of the interactions' ids that the items have, from which on the two columns belong together
EARLIEST = 788_918_400  # 1995: times before it are numbers of another kind
WORDS = {  # what a column is called, without its separators; the first ones are the most usual
    "user_id": r"(user|customer|cust|client|visitor|member|buyer|account|reviewer|shopper|household|hshd|panelist|"
    r"session|kunde|kunden|klient)(id|no|nr|num|number|nummer|key|code|hash)?|uid",
    "address": r"((user|customer|client|buyer)e?mail|e?mail)(address)?",  # a user's only name in exports of some shops
    "item_id": r"(item|product|prod|article|artikel|sku|stock|movie|book|goods|offer|track|song|variant|(parent)?asin)"
    r"(id|no|nr|num|number|nummer|key|code)?|isbn|ean|gtin|pid|iid",
    "timestamp": r"(unix)?(time|timestamp|ts|datetime|date|day)|(order|invoice|purchase|event|review|transaction|visit|"
    r"click|unixreview|buy|created?|placed|bought)(time|timestamp|ts|date|datetime|at|on)|tdat|(bestell|kauf)?datum",
    "rating": r"rating|ratings|stars|score|overall",
    "event": r"(event|action|behaviou?r)(type|name)?|type",
}
TEXT_WORDS = (
    r"title|name|(item|product|prod|article|movie|book|song|track)(title|name)|label",
    r"brand(name)?|manufacturer|maker|vendor|store|author|artist",
    r"(main|sub|item|product|prod)?categor(y|ies)(name|s|path)?|genres?|(item|product)?(type|group)(name)?|"
    r"(sub)?(department|commodity)(name|desc)?|section",
    r"(long|short|product|detail|item)?desc(ription)?|features?|text|keywords|tags",
)


@dataclass(eq=False)
class Head:
    """The first rows of a data set."""

    name: str  # without endings
    parts: list[Part]
    table: pa.Table

    @property
    def part(self) -> Part:
        """The one that the rows are of."""
        return self.parts[0]

    @cached_property
    def keys(self) -> dict[str, pa.ChunkedArray]:
        """The values of each column that holds an id in every row, each once, as far as `KEY_ROWS` rows tell."""
        found = _ids_held_once([self], self.table.column_names)
        if not found or (self.table.num_rows < HEAD_ROWS and len(self.parts) == 1):
            return found
        pieces: list[Head] = []
        left = KEY_ROWS
        for part in self.parts:
            if left > 0:
                table = read_part(part, lambda names: [name for name in names if name in found], [], limit=left)
                pieces.append(Head(self.name, [part], table))
                left -= table.num_rows
        return _ids_held_once(pieces, found)


class Proposal(NamedTuple):
    """How to read a folder.

    settings: dotted keys of params.yaml and their values; what is unsure is not among them
    reasons: a line per decision; remarks: what a person may want to know
    unsure: questions that only a person can answer
    rows: the first interactions as they would be taken; None while something is unsure
    """

    settings: dict[str, Any]
    reasons: list[str]
    remarks: list[str]
    unsure: list[str]
    rows: pa.Table | None


def look(folder: Path, params: IngestParams, text_columns: tuple[str, ...]) -> Proposal:
    """Propose how to read a folder; names that params have already and the data has too are kept.

    Raises:
        UnigrecError: no such folder, fewer than two data sets in it, or one that cannot be read.
    """
    if folder.is_file():
        more = _of_database(folder) if folder.suffix.lower() in DATABASES else ""
        raise UnigrecError(f"{folder}: is a file; name the folder that holds it{more}")
    if not folder.is_dir():
        raise UnigrecError(f"{folder}: no such folder; name the one that holds the shop's files")
    if (folder / paths.LINEAGE_FILE).is_file():
        return Proposal({}, ["a snapshot: its files and columns have our names"], [], [], None)
    heads = [_head(name, path) for name, path in data_sets(folder).items()]
    if len(heads) < 2:
        inside = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        raise UnigrecError(
            f"{folder}: needs interactions and items, two files or folders of parts (found: {inside})"
            f"{_other_way(folder)}"
        )
    reasons: list[str] = []
    unsure: list[str] = []
    pair = _which_files(heads, params, unsure)
    if bare := [_no_header(head) for head in pair or heads if _lacks_header(head)]:
        return Proposal({}, reasons, [], bare, None)
    if pair is None:
        return Proposal({}, reasons, [], unsure, None)
    log, catalogue = pair
    reasons += [f"interactions: {log.part.file.name}", f"items: {catalogue.part.file.name}"]
    columns, remarks = _columns(log, catalogue, params, reasons, unsure)
    chosen = _text_columns(catalogue, columns.get("items_id", ""), text_columns, unsure)
    if chosen:
        reasons.append(f"texts: {', '.join(chosen)}")
    if unsure:
        return Proposal({}, reasons, remarks, unsure, None)
    columns["items_id"] = "" if columns["items_id"] == columns["item_id"] else columns["items_id"]
    settings: dict[str, Any] = {"ingest.files.interactions": log.name, "ingest.files.items": catalogue.name}
    settings |= {f"ingest.columns.{name}": value for name, value in columns.items()}
    settings["embed.text_columns"] = list(chosen)
    update = {"files": FilesParams(interactions=log.name, items=catalogue.name), "columns": ColumnsParams(**columns)}
    rows = _rows(log, catalogue, params.model_copy(update=update), chosen, remarks=remarks)
    return Proposal(settings, reasons, list(dict.fromkeys(remarks)), unsure, rows)


def data_sets(folder: Path) -> dict[str, Path]:
    """Files and folders of parts in a folder, by their names without endings."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "_")):
            continue
        name, ending = split_ending(path.name)
        if ending or (path.is_dir() and not path.suffix):
            found[name] = path
    return found


def _other_way(folder: Path) -> str:
    """What to do with a folder of files that another source reads; empty if there is none."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    if any(set(pair) <= set(names) for pair in MOVIELENS_FILES):
        return f"; these are files of MovieLens: unigrec configure --data {folder} --source movielens"
    databases = [name for name in names if Path(name).suffix.lower() in DATABASES]
    if databases:
        return _of_database(folder / databases[0])
    return ""


def _of_database(file: Path) -> str:
    """The tables of a database, as a query names them, and what to set."""
    advice = "; set ingest.source to sql and write two queries, docs/own-data.md"
    if not is_sqlite(file):
        return f"; {file.name} is a database{advice}"
    name = re.sub(r"\W+", "_", file.stem)
    tables = [f"  {name}.{table} ({', '.join(columns)})" for table, columns in tables_of(file).items()]
    listed = "\n".join((f"; {file.name} is an SQLite database", *tables))
    return f"{listed}\nwith ingest.sql.attach={{{name}: {file}}}{advice}"


def _lacks_header(head: Head) -> bool:
    """Whether the first line of a CSV file holds values: half of its fields or more are numbers."""
    names = head.table.column_names
    numbers = [name for name in names if re.fullmatch(r"[+-]?\d+(\.\d+)?", name)]
    return head.part.format == "CSV" and 2 * len(numbers) >= len(names) > 1


def _no_header(head: Head) -> str:
    return (
        f"what the columns of {head.part.file.name} are: it has no header (its first line: "
        f"{', '.join(head.table.column_names)}); write a line of names above it, or name the columns in a query "
        "(ingest.source sql, docs/own-data.md)"
    )


def _head(name: str, path: Path) -> Head:
    parts = parts_of(path)

    def choose(names: list[str]) -> list[str]:
        if parts[0].format == "JSON lines":  # one key in two cases, which hold one thing in two halves
            check_columns(parts[0], names, (), once=[name for name in names if _is_known(name)])
        return [name for name in names if name and names.count(name) == 1]

    return Head(name, parts, read_part(parts[0], choose, [], limit=HEAD_ROWS))


def _is_known(name: str) -> bool:
    return bool(_text(name)) or any(_is_called(name, role) for role in WORDS)


def _text(name: str) -> list[str]:
    """The patterns of names of texts that a name matches."""
    return [pattern for pattern in TEXT_WORDS if re.fullmatch(pattern, _bare(name))]


def _bare(name: str) -> str:
    """A name without case and separators: Customer_No -> customerno."""
    return re.sub(r"[\W_]+", "", name).lower()


def _is_called(name: str, role: str) -> bool:
    return re.fullmatch(WORDS[role], _bare(name)) is not None


def _which_files(heads: list[Head], params: IngestParams, unsure: list[str]) -> tuple[Head, Head] | None:
    """The interactions are the data set with users and times; the items are one whose ids it names.

    Logs name other things too, such as campaigns: where several pairs would do, ids that are called items decide.
    """
    by_name = {head.name: head for head in heads}
    if params.files.interactions in by_name and params.files.items in by_name:
        return by_name[params.files.interactions], by_name[params.files.items]
    logs = [head for head in heads if _is_log(head, params) and _times(head)]
    found_ids = {
        (log, catalogue): ids
        for log in logs
        for catalogue in heads
        if log is not catalogue and (ids := _meeting(log, catalogue))
    }
    all_ids = _not_users([names for ids in found_ids.values() for names in ids])
    found_ids = {
        pair: left for pair, ids in found_ids.items() if (left := [names for names in ids if names in all_ids])
    }
    of_items = [pair for pair, ids in found_ids.items() if any(_is_called(name, "item_id") for name, _ in ids)]
    pairs = of_items if len(of_items) == 1 else list(found_ids)
    if len(pairs) == 1:
        return pairs[0]
    names = ", ".join(head.name for head in heads)
    found = "no two of them" if not pairs else "more than one pair of them"
    unsure.append(
        f"which of {names} holds the interactions, and which the items: {found} would do "
        "(interactions have users, times, and ids that the items have); answer with unigrec configure "
        "--set ingest.files.interactions=NAME --set ingest.files.items=NAME, names as they stand here; or join what "
        "belongs together in a query (ingest.source sql, docs/own-data.md)"
    )
    return None


def _is_log(head: Head, params: IngestParams) -> bool:
    names = head.table.column_names
    return params.columns.user_id in names or bool(_called_users(names))


def _called_users(names: list[str]) -> list[str]:
    """Columns named like users; if there are none, those named like their e-mail addresses."""
    called = [name for name in names if _is_called(name, "user_id")]
    return called or [name for name in names if _is_called(name, "address")]


def _ids(head: Head, name: str) -> pa.ChunkedArray | None:
    """The values of a column of ids; None if it holds something else, or nothing."""
    try:
        values = ids(head.table[name], Place(str(head.part.file), name))
    except UnigrecError:
        return None
    return None if values.null_count == len(values) else values


def _ids_held_once(pieces: list[Head], names: Iterable[str]) -> dict[str, pa.ChunkedArray]:
    """The columns whose values are ids, none of them missing and none there twice."""
    keys = {}
    for name in names:
        read = [_ids(piece, name) if name in piece.table.column_names else None for piece in pieces]
        columns = [column for column in read if column is not None and not column.null_count]
        values = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
        if len(columns) == len(pieces) and len(pc.unique(values)) == len(values):
            keys[name] = values
    return keys


def _meeting(log: Head, catalogue: Head) -> list[tuple[str, str]]:
    """Pairs of columns: one in the interactions whose values are mostly ids, each there once, of one in the items."""
    found = []
    for name in log.table.column_names:
        values = _ids(log, name)
        if values is None:
            continue
        distinct = pc.unique(values).drop_null()
        for key, known in catalogue.keys.items():
            if pc.mean(pc.is_in(distinct, value_set=known).cast(pa.int8())).as_py() >= MIN_MEETING:
                found.append((name, key))
    return found


def _not_users(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of columns that are not called users: where ids are numbers from 1, those of users are those of items too.

    All of them if none is left: a few shops name their items so.
    """
    return [pair for pair in pairs if not any(_is_called(name, "user_id") for name in pair)] or pairs


def _times(head: Head) -> list[str]:
    """Columns that can be read as times of a shop."""
    return [name for name in head.table.column_names if _time_of(head, name) is not None]


def _time_of(head: Head, name: str) -> int | None:
    """The last time of a column; None if it holds no times after 1995."""
    try:
        last = pc.max(to_seconds(head.table[name], Place(str(head.part.file), name), [])).as_py()
    except UnigrecError:
        return None
    return last if last is not None and last >= EARLIEST else None


def _columns(
    log: Head, catalogue: Head, params: IngestParams, reasons: list[str], unsure: list[str]
) -> tuple[dict[str, str], list[str]]:
    """Names of the columns that are sure, by our names for them; and remarks."""
    set_already, names = params.columns, log.table.column_names
    found: dict[str, str] = {}
    remarks: list[str] = []
    key = set_already.items_id or set_already.item_id
    if set_already.item_id in names and key in catalogue.table.column_names:
        found["item_id"], found["items_id"] = set_already.item_id, key
    else:
        pairs = _meeting(log, catalogue)
        answered = [pair for pair in pairs if pair[0] == set_already.item_id or pair[1] == set_already.items_id]
        named = answered or [pair for pair in pairs if _is_called(pair[0], "item_id")] or _not_users(pairs)
        if len(named) == 1:
            found["item_id"], found["items_id"] = named[0]
            reasons.append(f"item_id: {named[0][0]} (in the items: {named[0][1]}), by their common values")
        else:
            unsure.append(_question("item_id", [pair[0] for pair in named], names))
    for role in ("user_id", "timestamp"):
        own = getattr(set_already, role)
        if own in names:
            found[role] = own
            continue
        left = [name for name in names if name not in found.values()]
        if role == "timestamp":
            candidates = [name for name in left if _time_of(log, name) is not None]
            called = [name for name in left if _is_called(name, role)]
            candidates = [name for name in candidates if name in called] or candidates or called
        else:
            candidates = _called_users([name for name in left if _ids(log, name) is not None])
        if len(candidates) == 1:
            found[role] = candidates[0]
            reasons.append(f"{role}: {candidates[0]}, by its name{' and values' if role == 'timestamp' else ''}")
        else:
            unsure.append(_question(role, candidates, names))
    for name in names:
        if name not in found.values() and _is_called(name, "rating"):
            remarks.append(
                f"{name} looks like a rating: to leave out low ones, set ingest.columns.rating and min_rating"
            )
        if name not in found.values() and not params.events and (types := _event_types(log, name)):
            remarks.append(
                f"{name} looks like the type of event ({', '.join(types)}): all count alike, unless you set "
                "ingest.columns.event and ingest.events"
            )
    if _is_called(found.get("user_id", ""), "address"):
        remarks.append(
            f"{found['user_id']} holds e-mail addresses, which become user ids in every file: hash them first"
        )
    return found, remarks


def _event_types(log: Head, name: str) -> list[str]:
    """The types of events in a column that is named for them; none if it holds one value, or many."""
    values = _ids(log, name) if _is_called(name, "event") else None
    if values is None:
        return []
    types = pc.unique(values).drop_null().to_pylist()
    return sorted(types) if 1 < len(types) <= EVENT_TYPES else []


def _question(role: str, candidates: list[str], names: list[str]) -> str:
    choice = f"{' or '.join(candidates)}?" if candidates else f"none of {', '.join(names)} looks like it;"
    return f"which column is the {role}: {choice} set ingest.columns.{role}"


def _text_columns(catalogue: Head, key: str, text_columns: tuple[str, ...], unsure: list[str]) -> list[str]:
    """Columns that describe the items: those of params, or by their names, or all that hold words.

    Where the items have columns of params, but not all, those called alike stand for the missing ones.
    """
    names = [name for name in catalogue.table.column_names if name != key]
    words = [name for name in names if _holds_words(catalogue, name)]
    if present := [name for name in text_columns if name in names]:
        alike = {name: [name] if name in names else _called_alike(name, words, present) for name in text_columns}
        chosen = list(dict.fromkeys(name for instead in alike.values() for name in instead))
        return list(text_columns) if chosen == present else chosen
    called = [name for pattern in TEXT_WORDS for name in words if re.fullmatch(pattern, _bare(name))]
    chosen = list(dict.fromkeys(called)) or words
    if not chosen:
        unsure.append(
            f"which columns describe the items: none of {', '.join(names)} holds words; set embed.text_columns"
        )
    return chosen


def _called_alike(missing: str, words: list[str], present: list[str]) -> list[str]:
    """Columns whose names mean what a missing column's name means."""
    patterns = _text(missing)
    others = [name for name in words if name not in present]
    return [name for name in others if any(re.fullmatch(pattern, _bare(name)) for pattern in patterns)]


def _holds_words(head: Head, name: str) -> bool:
    untyped = head.part.format != "Parquet"
    try:
        column = texts(head.table[name], Place(str(head.part.file), name), named=False, untyped=untyped)
    except UnigrecError:
        return False
    if column is None or column.null_count == len(column):
        return False
    words = pc.match_substring_regex(column, r"[^\W\d_]{3}")
    links = pc.match_substring_regex(column, r"^(https?:|www\.|/)")
    return (pc.mean(words.cast(pa.int8())).as_py() or 0) > 0.5 > (pc.mean(links.cast(pa.int8())).as_py() or 0)


def _rows(log: Head, catalogue: Head, params: IngestParams, chosen: list[str], remarks: list[str]) -> pa.Table:
    """The first interactions as they would be taken, with the first text of their items."""
    columns = Columns.of(params)._replace(where="", rating="")
    taken = interactions_of([(log.part, log.table)], columns, remarks).slice(0, SHOWN_ROWS)
    items, _ = items_of([(catalogue.part, catalogue.table)], columns, chosen)
    title = next((name for name in chosen if name in items.column_names), "item_id")
    at = pc.index_in(taken["item_id"], value_set=items["item_id"].combine_chunks())
    moments = pc.strftime(taken["timestamp"].cast(pa.timestamp("s")), format="%Y-%m-%d %H:%M:%S")
    return pa.table(
        {
            **dict(zip(("user_id", "item_id"), taken.columns[:2], strict=True)),
            "time": moments,
            title: items[title].take(at),
        }
    )
