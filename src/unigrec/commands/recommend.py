"""`unigrec recommend`: prints the answer to one history."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unigrec.base.errors import UnigrecError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from unigrec.config.schema import Params
    from unigrec.core.retrieval.rank_by import RankBy
    from unigrec.serving.schema import Answer

# A value that ends so is meant as a file.
LISTS = re.compile(r"\.(txt|text|csv|tsv|tab|json|jsonl|ndjson|lst|list|ids|dat|log|md|xlsx?|parquet|gz|zip)", re.I)


def print_recommendations(
    params: Params,
    model: str,
    histories: Sequence[str],
    k: int,
    allow: Sequence[str],
    deny: Sequence[str],
    filter: str | None,
    rank_by: RankBy | None,
    diversity: str | None,
    new_share: str | None,
    boost: Sequence[str],
    reasons: bool,
    as_json: bool,
) -> None:
    """Print recommendations for one history.

    Args:
        model: alias, version number, or a bundle's folder. histories: as in `parse_ids`. allow, deny: as in `read_ids`.
        diversity, new_share, boost: as texts.
    """
    from unigrec.registry.versions import load_bundle
    from unigrec.serving.schema import Request

    bundle = load_bundle(params.register_, model)
    history = parse_ids(histories, bundle.index_of)
    allowed, denied = read_lists(bundle.index_of, allow, deny)
    request = Request.parse(
        histories=[history],
        k=k,
        allow=allowed,
        deny=denied,
        filter=filter,
        rank_by=rank_by,
        diversity=diversity,
        new_share=new_share,
        boost=list(boost),
        reasons=reasons,
    )
    (answer,) = bundle.recommend(**dict(request))
    if as_json:
        print(answer.model_dump_json(indent=2))
    else:
        _print_table(answer, len(history))


def parse_ids(values: Sequence[str], known: Collection[str]) -> list[str]:
    """Item ids from the command line, oldest first.

    Several values are one id each. A single value may be a JSON list, an id that the catalogue knows (commas and all),
    or ids with commas between them. Raises UnigrecError for a broken JSON list.
    """
    if len(values) != 1:
        return list(values)
    value = values[0]
    if value in known:
        return [value]
    if value.lstrip().startswith("["):
        try:
            ids = json.loads(value)
        except json.JSONDecodeError as error:
            raise UnigrecError(f"--history {value!r}: looks like a JSON list, but is none: {error}") from error
        if not all(isinstance(item, str) for item in ids):
            raise UnigrecError(f"--history {value!r}: every id must be a string")
        return ids
    return [part.strip() for part in value.split(",") if part.strip()]


def read_lists(known: Collection[str], allow: Sequence[str], deny: Sequence[str]) -> tuple[set[str] | None, set[str]]:
    """The ids of --allow, None if it was not given, and those of --deny. Arguments and errors as in `read_ids`."""
    return read_ids("--allow", allow, known) if allow else None, read_ids("--deny", deny, known)


def read_ids(option: str, values: Sequence[str], known: Collection[str]) -> set[str]:
    """Item ids of an allow- or deny-list; a line on standard error says how many of them the catalogue does not hold.

    Args:
        option: its name. values: each is a file with one id per line, or an id. known: ids of the catalogue.

    Raises:
        UnigrecError: a file cannot be read, or a value looks like a file that does not exist.
    """
    # Blanks around an id come from the file's editor, unless the catalogue has them too.
    found = [item if item in known else item.strip() for value in values for item in _lines(option, value, known)]
    ids = {item for item in found if item}
    if values and not ids:
        print(f"{option}: holds no item id", file=sys.stderr)
    unknown = sum(item not in known for item in ids)
    if unknown:
        print(f"{option}: {unknown} of {len(ids)} item ids are not in the catalogue", file=sys.stderr)
    return ids


def _lines(option: str, value: str, known: Collection[str]) -> list[str]:
    """The lines of a file, or the value itself if it is an id. A value that names a file and an id is the file."""
    if not os.path.exists(value) or (os.path.isdir(value) and value in known):  # Path.exists raises for a long name
        looks_like_file = "/" in value or os.sep in value or LISTS.fullmatch(os.path.splitext(value)[1])
        if value not in known and looks_like_file:
            raise UnigrecError(f"{option} {value}: no such file, and no item of the catalogue has this id")
        return [value]
    if os.path.isdir(value):
        raise UnigrecError(f"{option} {value}: a folder; name a file in it with one item id per line")
    try:
        text = Path(value).read_text(encoding="utf-8-sig")  # editors may write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise UnigrecError(f"{option} {value}: expected UTF-8 text with one item id per line: {error}") from error
    if "\0" in text:
        raise UnigrecError(f"{option} {value}: expected UTF-8 text with one item id per line, found binary data")
    return text.split("\n")  # splitlines would also cut at separators that an id may hold


def _print_table(answer: Answer, asked: int) -> None:
    if answer.by_popularity:
        print("No item of the history is in the catalogue: these are the most popular items.")
    elif answer.unknown:
        print(f"{answer.unknown} of {asked} items of the history are not in the catalogue and were left out.")
    with_reasons = any(item.reason for item in answer.items)
    print_items(answer.items, {"reason": lambda item: item.reason.text} if with_reasons else {})


def print_items(items: Sequence[Any], more: dict[str, Callable[[Any], str]]) -> None:
    """Print a table of items with `item_id`, `title` and `score`. more: further columns, by their headers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (("", "right"), ("item", "left"), ("title", "left"), ("score", "right")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for header in more:
        table.add_column(header, overflow="fold")
    for place, item in enumerate(items, start=1):
        texts = (item.item_id, item.title, f"{item.score:.3f}", *(value(item) for value in more.values()))
        table.add_row(str(place), *(_plain(text) for text in texts))
    Console(highlight=False).print(table)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
