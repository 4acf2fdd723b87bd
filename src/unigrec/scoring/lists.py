"""Lists of items for many users as a table: what a warehouse takes.

Shapes: B users, k items per list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unigrec.serving.bundle import Bundle
    from unigrec.serving.schema import ListRequest

SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "rank": pa.int32(),  # 1: the best
        "item_id": pa.string(),
        "score": pa.float32(),  # as in `unigrec.serving.schema.RecommendedItem`
        "by_popularity": pa.bool_(),  # no item of the user's history is known: a list of the most popular items
    }
)

USERS_AT_ONCE = 2048  # of a call: enough to sort them by length, few enough to say now and then how far it is


class Counts(NamedTuple):
    """What was scored."""

    users: int = 0
    rows: int = 0  # of the table
    interactions: int = 0  # items of all histories
    unknown: int = 0  # of these, those that the catalogue does not hold
    by_popularity: int = 0  # users

    def plus(self, other: Self) -> Counts:
        return Counts(*(one + two for one, two in zip(self, other, strict=True)))


def score(
    bundle: Bundle, users: Sequence[str], histories: Sequence[Sequence[str | None]], request: ListRequest
) -> tuple[pa.Table, Counts]:
    """The list of each user, as `SCHEMA` has it, in the order of the users; and what was counted.

    Args:
        users: B ids. histories: of each user the item ids, oldest first.

    Raises:
        UnigrecError: as `Bundle.rank`.
    """
    lists = bundle.rank(histories, **dict(request))
    items, scores = lists.best.items.numpy(), lists.best.scores.numpy()
    found = items >= 0  # (B, k)
    rows = np.nonzero(found)[0]
    table = pa.table(
        {
            "user_id": pa.array(users, pa.string()).take(pa.array(rows)),
            "rank": found.cumsum(1)[found].astype(np.int32),
            "item_id": bundle.item_ids.column.take(pa.array(items[found])),
            "score": scores[found],
            "by_popularity": lists.by_popularity[rows],
        },
        schema=SCHEMA,
    )
    counts = Counts(
        users=len(users),
        rows=len(rows),
        interactions=sum(map(len, histories)),
        unknown=int(lists.unknown.sum()),
        by_popularity=int(lists.by_popularity.sum()),
    )
    return table, counts
