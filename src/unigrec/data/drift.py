"""How a snapshot of the data differs from the one before it, in figures. Params decide which are too large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Tables = tuple[pa.Table, pa.Table]  # interactions and items
MIN_DELIVERED = 50  # users or items of a delivery; shares of fewer are chance, so those of the whole snapshot count


class Drift(NamedTuple):
    """Sizes before and now, and the figures that `validate.previous` bounds (shares; larger is worse)."""

    interactions_before: int
    interactions: int
    users_before: int
    users: int
    items_before: int
    items: int
    new_users_count: int
    new_users_of: int  # users of the delivery if one was appended, else today's
    lost_users_count: int
    new_items_count: int
    new_items_of: int  # items with interactions in the delivery if one was appended, else today's
    lost_items_count: int
    text_coverage_before: float  # share of items with any text
    text_coverage: float
    growth: float  # of the interactions, relative; 0 if they shrink
    shrinkage: float  # of the interactions, relative; 0 if they grow
    new_users: float  # share of `new_users_of`
    lost_users: float  # share of the users before
    new_items: float  # share of `new_items_of`
    lost_items: float  # share of the items before
    popularity_shift: float  # Jensen-Shannon divergence of the items' shares of the interactions, in bits, 0 to 1
    text_coverage_drop: float

    @classmethod
    def of_lineage(cls, figures: dict[str, Any]) -> Drift:
        """The figures of a lineage; that of an earlier version has shares of today's users and items alone."""
        return cls(**{"new_users_of": figures["users"], "new_items_of": figures["items"]} | figures)


def measure_drift(before: Tables, now: Tables, text_columns: Sequence[str], appended: Tables | None = None) -> Drift:
    """Compare two snapshots.

    Items are those of the items table, users those of the interactions. Nulls are left out: other expectations find
    them.

    Args:
        appended: the delivery, if it was added to `before`. What is new is then a share of the delivery: a small one
            hardly moves the shares of the whole.
    """
    (log_before, items_before), (log, items) = before, now
    rows_before, rows = log_before.num_rows, log.num_rows
    users = _overlap(log_before["user_id"], log["user_id"])
    catalogue = _overlap(items_before["item_id"], items["item_id"])
    coverage_before, coverage = (text_coverage(table, text_columns) for table in (items_before, items))
    new_users, new_items = users, catalogue
    if appended is not None:
        delivered, described = appended
        new_users = _of_delivery(log_before["user_id"], delivered["user_id"], users)
        new_items = _of_delivery(items_before["item_id"], delivered["item_id"], catalogue)
        again = items_before.filter(pc.is_in(items_before["item_id"], value_set=_ids(described)))
        if again.num_rows >= MIN_DELIVERED:  # a delivered row replaces the one before it, with its texts
            replaced = items.filter(pc.is_in(items["item_id"], value_set=_ids(again)))
            pair = tuple(text_coverage(table, text_columns) for table in (again, replaced))
            coverage_before, coverage = max((coverage_before, coverage), pair, key=lambda both: both[0] - both[1])
    return Drift(
        interactions_before=rows_before,
        interactions=rows,
        users_before=users.before,
        users=users.now,
        items_before=catalogue.before,
        items=catalogue.now,
        new_users_count=new_users.now - new_users.both,
        new_users_of=new_users.now,
        lost_users_count=users.before - users.both,
        new_items_count=new_items.now - new_items.both,
        new_items_of=new_items.now,
        lost_items_count=catalogue.before - catalogue.both,
        text_coverage_before=coverage_before,
        text_coverage=coverage,
        growth=max(rows / max(rows_before, 1) - 1, 0.0),
        shrinkage=max(1 - rows / max(rows_before, 1), 0.0),
        new_users=1 - new_users.both / max(new_users.now, 1),
        lost_users=1 - users.both / max(users.before, 1),
        new_items=1 - new_items.both / max(new_items.now, 1),
        lost_items=1 - catalogue.both / max(catalogue.before, 1),
        popularity_shift=popularity_shift(log_before["item_id"], log["item_id"]),
        text_coverage_drop=max(coverage_before - coverage, 0.0),
    )


class _Overlap(NamedTuple):
    before: int
    now: int
    both: int


def _overlap(before: pa.ChunkedArray, now: pa.ChunkedArray) -> _Overlap:
    """Count the distinct ids of two columns, and those that both columns have."""
    ids_before, ids = (column.unique().drop_null() for column in (before, now))
    both = pc.sum(pc.is_in(ids, value_set=ids_before)).as_py() or 0
    return _Overlap(len(ids_before), len(ids), both)


def _of_delivery(before: pa.ChunkedArray, delivered: pa.ChunkedArray, whole: _Overlap) -> _Overlap:
    """The overlap of a delivery with the snapshot before it, or that of the whole if the delivery is small."""
    found = _overlap(before, delivered)
    return found if found.now >= MIN_DELIVERED else whole


def _ids(items: pa.Table) -> pa.Array:
    return items["item_id"].unique().cast(pa.string())


def text_coverage(items: pa.Table, text_columns: Sequence[str]) -> float:
    """Share of the items that have a text in at least one of the columns."""
    with_text = np.zeros(items.num_rows, bool)
    for column in text_columns:
        if column in items.column_names:
            with_text |= items[column].is_valid().to_numpy()
    return float(with_text.mean()) if len(with_text) else 0.0


def popularity_shift(before: pa.ChunkedArray, now: pa.ChunkedArray) -> float:
    """Jensen-Shannon divergence, in bits, between the shares of the ids in two columns."""
    both = pa.chunked_array([*before.chunks, *now.chunks], before.type).drop_null().dictionary_encode()
    index = both.combine_chunks().indices.to_numpy(zero_copy_only=False)
    first = len(before) - before.null_count
    ids = index.max(initial=-1) + 1
    p, q = (np.bincount(part, minlength=ids) / max(len(part), 1) for part in (index[:first], index[first:]))
    middle = (p + q) / 2
    return float(max((_divergence(p, middle) + _divergence(q, middle)) / 2, 0.0))


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Kullback-Leibler divergence in bits; q is positive where p is."""
    positive = p > 0
    return float((p[positive] * np.log2(p[positive] / q[positive])).sum())
