"""From interactions to the histories of users."""

from __future__ import annotations

import pyarrow as pa

from unigrec.base.errors import UnigrecError

COLUMNS = ("user_id", "item_id", "timestamp")
EVENT = "event"  # a column of interactions with types of events


def histories_of(interactions: pa.Table) -> tuple[list[str], list[list[str]]]:
    """The users, and the items of each in the order of time; equal times keep the order of the rows.

    Rows equal in user, item, time and event (if there are types of events) are one interaction, as in the training.
    Raises UnigrecError if there is none.
    """
    ordered = interactions.filter(interactions["user_id"].is_valid()).sort_by("timestamp")
    columns = (ordered[name].to_pylist() for name in (*COLUMNS, EVENT) if name in ordered.column_names)
    found: dict[str, list[str]] = {}
    for user, item, *_ in dict.fromkeys(zip(*columns, strict=True)):
        found.setdefault(user, []).append(item)
    if not found:
        raise UnigrecError("the file holds no interaction")
    return list(found), list(found.values())
