"""`unigrec segments`: kinds of users, with the items and words that tell each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unigrec.commands.audience import json_of
from unigrec.commands.histories import read_histories

if TYPE_CHECKING:
    from unigrec.config.schema import Params


def print_segments(params: Params, model: str, histories: Path, k: int, parts: int, as_json: bool) -> None:
    """Print segments of the users of a file of interactions, as a table or JSON; JSON has the users of each too.

    Args:
        model: alias, version number, or a bundle's folder. histories: Parquet, CSV or JSON lines, as the shop's
            interactions. k: number of segments. parts: of each segment.

    Raises:
        UnigrecError: the file cannot be read, it has too few users, or the bundle is of an earlier version.
    """
    from unigrec.registry.versions import load_bundle

    bundle = load_bundle(params.register_, model)
    users, items = read_histories(histories, params)
    found = bundle.segments(items, k, parts, params.seed)
    rows = [segment.model_dump() for segment in found.segments]
    of_users = {user: part for user, part in zip(users, found.of_histories, strict=True) if part is not None}
    unread = len(users) - len(of_users)
    if as_json:
        stability = {"segments": found.stability, "parts": found.stability_of_parts}
        print(json_of({"segments": rows, "stability": stability, "of_users": of_users, "unread": unread}))
        return
    if unread:
        print(f"{unread} of {len(users)} users have no item of the catalogue", file=sys.stderr)
    _print_table(rows)
    print(
        f"{len(of_users)} users; agreement between seeds (adjusted Rand, 1: the same): segments {found.stability:.2f}, "
        f"parts {found.stability_of_parts:.2f}"
    )


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (("segment", "left"), ("users", "right"), ("words (lift)", "left"), ("items (lift)", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        words = ", ".join(f"{one['word']} {one['lift']:.1f}" for one in row["words"])
        items = "\n".join(f"{one['title'] or one['item_id']} {one['lift']:.1f}" for one in row["items"])
        table.add_row(row["segment"], str(row["users"]), escape(words), escape(items))
    Console(highlight=False).print(table)
