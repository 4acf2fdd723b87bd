"""`unigrec recommend`: one history, printed answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from unigrec.base.errors import UnigrecError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from unigrec.config.schema import Params
    from unigrec.serving.schema import Answer


def recommend(
    params: Params,
    model: str,
    histories: Sequence[str],
    k: int,
    allow: Sequence[str],
    deny: Sequence[str],
    as_json: bool,
) -> None:
    """Print recommendations for one history."""
    from unigrec.registry.versions import load_bundle

    bundle = load_bundle(params.register_, model)
    history = parse_ids(histories, bundle.index_of)
    answer = bundle.recommend([history], k, read_ids(allow) if allow else None, read_ids(deny))[0]
    if as_json:
        print(answer.model_dump_json(indent=2))
    else:
        _print_recommended(answer, len(history))


def parse_ids(values: Sequence[str], known: Collection[str]) -> list[str]:
    """Item ids from the command line, oldest first.

    Several values are one id each. A single value may be a JSON list, an id that the catalogue knows (commas and all),
    or ids with commas between them. Raises UnigrecError on a broken JSON list.
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


def read_ids(values: Sequence[str]) -> set[str]:
    """Item ids of an allow- or deny-list: a value is a file with one id a line, or else an id."""
    ids: set[str] = set()
    for value in values:
        path = Path(value)
        if path.is_file():
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except UnicodeDecodeError as error:
                raise UnigrecError(f"{path}: expected UTF-8 text with one item id a line: {error}") from error
            ids |= {line for line in lines if line}
        else:
            ids.add(value)
    return ids


def _print_recommended(answer: Answer, asked: int) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if answer.by_popularity:
        console.print("No item of the history is in the catalogue: these are the most popular items.")
    elif answer.unknown:
        console.print(f"{answer.unknown} of {asked} items of the history are not in the catalogue and were left out.")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (("", "right"), ("item", "left"), ("title", "left"), ("score", "right")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for place, item in enumerate(answer.items, start=1):
        table.add_row(str(place), *(_plain(text) for text in (item.item_id, item.title)), f"{item.score:.3f}")
    console.print(table)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
