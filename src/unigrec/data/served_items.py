"""What requests filter by, per item of the prepared catalogue: the served columns, and when an item was first seen.

Legend: U users, N items, n interactions.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unigrec.base.errors import UnigrecError
from unigrec.data.holdout import is_training
from unigrec.data.prepare import Prepared

FIRST_SEEN = "first_seen"
SECONDS_PER_DAY = 86_400


def served_items(prepared: Prepared, given: pa.Table | None, date: str = "") -> pa.Table:
    """item_id, the given columns in catalogue order, and `first_seen` (timestamp in seconds, UTC).

    `first_seen` is the date of an item's column `date`, and without one the first interaction with the item in the
    training part; null: neither is known. The column is absent if no date is named and the log's times tell no days.

    Args:
        given: item_id, and columns with their types.

    Raises:
        UnigrecError: the column `date` holds no dates.
    """
    item_ids = prepared.catalogue["item_id"]
    columns = {"item_id": item_ids}
    if given is not None:
        rows = given.take(pc.index_in(item_ids, value_set=given["item_id"].combine_chunks()))
        columns |= {name: rows[name] for name in rows.column_names if name != "item_id"}
    seen = _first_interactions(prepared.sequences, len(item_ids))
    if date:
        if not pa.types.is_timestamp(columns[date].type):
            raise UnigrecError(f"serve.date: column {date!r} holds {columns[date].type}, not dates")
        seen = columns[date] if seen is None else pc.coalesce(columns[date], seen)
    return pa.table(columns if seen is None else columns | {FIRST_SEEN: seen})


def _first_interactions(sequences: dict[str, np.ndarray], items: int) -> pa.Array | None:
    """(N,) time of each item's first training interaction; None where the times tell no days."""
    offsets, times = sequences["offsets"], sequences["timestamps"]
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    days = times // SECONDS_PER_DAY
    if not ((days[1:] > days[:-1]) & (users[1:] == users[:-1])).any():
        return None
    training = is_training(sequences)
    first = np.full(items, np.iinfo(np.int64).max)
    np.minimum.at(first, sequences["items"][training], times[training])
    return pa.array(first, pa.timestamp("s"), mask=first == np.iinfo(np.int64).max)
