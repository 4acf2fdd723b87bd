"""`unigrec segments`: kinds of users, with the items and words that tell each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unigrec.base.errors import UnigrecError
from unigrec.commands.audience import json_of, readable
from unigrec.core.retrieval.segments import Thing, find_segments, telling
from unigrec.data.histories import histories_of

if TYPE_CHECKING:
    from unigrec.config.schema import Params
    from unigrec.serving.bundle import Bundle

USERS_PER_SEGMENT = 10  # at least, on average: fewer tell nothing
MOST_ITEMS, MOST_WORDS = 3, 5  # shown of each


def print_segments(params: Params, model: str, histories: Path, k: int, parts: int, as_json: bool) -> None:
    """Print segments of the users of a file of interactions, as a table or JSON; JSON has the users of each too.

    Args:
        model: alias, version number, or a bundle's folder. histories: Parquet, CSV or JSON lines, as the shop's
            interactions. k: number of segments. parts: of each segment.

    Raises:
        UnigrecError: the file cannot be read, it has too few users, or the bundle is of an earlier version.
    """
    from unigrec.data.sources.folder import read_interactions
    from unigrec.registry.versions import load_bundle
    from unigrec.serving.features import user_states

    bundle = load_bundle(params.register_, model)
    everyone, items = histories_of(read_interactions(histories, params.ingest)[0])
    users, read = readable(bundle, everyone, items)
    if len(users) < USERS_PER_SEGMENT * k:
        raise UnigrecError(
            f"{histories}: {len(users)} users have an item of the catalogue; {k} segments need at least "
            f"{USERS_PER_SEGMENT * k}: lower -k"
        )
    found = find_segments(user_states(bundle, read), k, parts, params.seed)
    described = _described(bundle, found.segments, found.parts, read)
    unread = len(everyone) - len(users)
    if as_json:
        of_users = {
            user: f"{segment + 1}.{part + 1}"
            for user, segment, part in zip(users, found.segments.tolist(), found.parts.tolist(), strict=True)
        }
        stability = {"segments": found.stability, "parts": found.stability_of_parts}
        print(json_of({"segments": described, "stability": stability, "of_users": of_users, "unread": unread}))
        return
    if unread:
        print(f"{unread} of {len(everyone)} users have no item of the catalogue", file=sys.stderr)
    _print_table(described)
    print(
        f"{len(users)} users; agreement between seeds (adjusted Rand, 1: the same): segments {found.stability:.2f}, "
        f"parts {found.stability_of_parts:.2f}"
    )


def _described(bundle: Bundle, segments: np.ndarray, parts: np.ndarray, read: list[list[int]]) -> list[dict[str, Any]]:
    """A row per segment, each followed by its parts: number, users, and the items and words that tell it."""
    from unigrec.serving.reasons import WORD

    titles = bundle.titles.to_pylist()
    words_of = [set(WORD.findall(title.lower())) for title in titles]
    words = sorted(set().union(*words_of))
    number = {word: place for place, word in enumerate(words)}
    items = _pairs([set(own) for own in read])
    used = _pairs([{number[word] for item in set(own) for word in words_of[item]} for own in read])

    def row(name: str, inside: np.ndarray) -> dict[str, Any]:
        of_items = telling(inside, *items, MOST_ITEMS)
        return {
            "segment": name,
            "users": int(inside.sum()),
            "share": float(inside.mean()),
            "items": [
                {"item_id": bundle.item_ids[one.thing], "title": titles[one.thing]} | _figures(one) for one in of_items
            ],
            "words": [{"word": words[one.thing]} | _figures(one) for one in telling(inside, *used, MOST_WORDS)],
        }

    rows = []
    for segment in range(int(segments.max()) + 1):
        inside = segments == segment
        rows.append(row(f"{segment + 1}", inside))
        rows += [
            row(f"{segment + 1}.{part + 1}", inside & (parts == part)) for part in range(int(parts[inside].max()) + 1)
        ]
    return rows


def _pairs(things: list[set[int]]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) users and (n,) things, from the things of each user."""
    users = np.repeat(np.arange(len(things)), [len(own) for own in things])
    return users, np.array([thing for own in things for thing in sorted(own)], np.int64)


def _figures(one: Thing) -> dict[str, float]:
    return {"users": one.users, "lift": one.lift}


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
