"""From the two tables to integer sequences: duplicates out, k-core, time order, integer maps, training counts.

U users, N items, n interactions that are left.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unigrec.config import PrepareParams
from unigrec.errors import UnigrecError

HELD_OUT = 2  # the last interaction of a user is the test, the one before it the validation
SHOWN_ROUNDS = 12  # of the k-core, in an error


class Prepared(NamedTuple):
    """What `prepare` writes.

    sequences: items int32 (n,) and timestamps int64 (n,), user after user, each in time order; offsets int64 (U+1,):
        user u owns [offsets[u], offsets[u+1])
    users: user_index int32, user_id string; index = rank of the id in byte order
    catalogue: item_index int32, item_id string, the text columns, train_count int32 (training interactions of the item)
    stats: sizes before and after, rows that each k-core round removed, lengths, density, share of ties
    """

    sequences: dict[str, np.ndarray]
    users: pa.Table
    catalogue: pa.Table
    stats: dict


class InteractionLog(NamedTuple):
    """Interactions as integers: codes into the dictionaries of ids, in the given row order."""

    users: np.ndarray  # int32
    items: np.ndarray  # int32
    timestamps: np.ndarray  # int64, unix seconds

    def take(self, rows: np.ndarray) -> InteractionLog:
        return InteractionLog(self.users[rows], self.items[rows], self.timestamps[rows])


def prepare_tables(interactions: pa.Table, items: pa.Table, params: PrepareParams) -> Prepared:
    """Filter to the k-core, order by time and map ids to integers.

    Rows equal in user, item and time are one interaction. Then users and items with fewer than `params.k_core`
    interactions are removed, again and again until none are left to remove. A user's interactions are ordered by time;
    those with the same time keep the order in which the source gave them, so a source that knows their order should
    write it.

    Args:
        interactions: user_id string, item_id string, timestamp int64 (unix seconds).
        items: item_id string and text columns.

    Raises:
        UnigrecError: an id or time is missing, an item is unknown or defined twice, or fewer users or items than
            `params.min_users_after` and `params.min_items_after` are left.
    """
    _check(interactions, items)
    user_codes, user_ids = _encode(interactions["user_id"])
    item_codes, item_ids = _encode(interactions["item_id"])
    given = InteractionLog(user_codes, item_codes, interactions["timestamp"].to_numpy())

    log = _drop_duplicates(given)
    duplicates = len(given.users) - len(log.users)
    log, rounds = filter_k_core(log, params.k_core)
    _refuse_too_small(log, rounds, len(given.users), params)

    user_index, user_ids = _rank(log.users, user_ids)
    item_index, item_ids = _rank(log.items, item_ids)
    order = np.lexsort((log.timestamps, user_index))  # stable: equal times keep the given order
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user_index, minlength=len(user_ids)))]).astype(np.int64)
    sequences = {"items": item_index[order], "timestamps": log.timestamps[order], "offsets": offsets}

    users = pa.table({"user_index": pa.array(np.arange(len(user_ids), dtype=np.int32)), "user_id": user_ids})
    train_count = _train_count(sequences["items"], offsets, len(item_ids))
    stats = {
        "before": _sizes(given),
        "after": _sizes(log),
        "duplicates_removed": duplicates,
        "k_core": params.k_core,
        "k_core_rounds": rounds,
        **_shape(sequences, len(item_ids)),
    }
    return Prepared(sequences, users, _catalogue(items, item_ids, train_count), stats)


def _check(interactions: pa.Table, items: pa.Table) -> None:
    """What the validate stage has made sure of, for those who run this stage by hand."""
    for where, table, names in (
        ("interactions", interactions, ("user_id", "item_id", "timestamp")),
        ("items", items, ("item_id",)),
    ):
        for name in names:
            if table[name].null_count:
                missing = f"{table[name].null_count:,} of {table.num_rows:,}"
                raise UnigrecError(f"{where}: {missing} rows have no {name}; run `unigrec validate` for the rows")
    distinct = pc.count_distinct(items["item_id"]).as_py()
    if distinct != items.num_rows:
        repeated = items.num_rows - distinct
        raise UnigrecError(f"items: {repeated:,} rows repeat an item_id; run `unigrec validate` for the rows")
    known = items["item_id"].combine_chunks()
    unknown = pc.sum(pc.invert(pc.is_in(interactions["item_id"], value_set=known))).as_py()
    if unknown:
        raise UnigrecError(f"interactions: {unknown:,} rows name an item that items lacks; run `unigrec validate`")


def _encode(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Codes int32 (n,) and the distinct ids they stand for, in order of appearance."""
    encoded = column.dictionary_encode().combine_chunks()
    return encoded.indices.to_numpy(zero_copy_only=False), encoded.dictionary


def _drop_duplicates(log: InteractionLog) -> InteractionLog:
    """Of rows equal in user, item and time the first stays; the order of the others does not change."""
    order = np.lexsort((log.items, log.timestamps, log.users))
    same = np.ones(max(len(order) - 1, 0), dtype=bool)
    for values in log:
        ordered = values[order]
        same &= ordered[1:] == ordered[:-1]
    keep = np.ones(len(order), dtype=bool)
    keep[order[1:][same]] = False
    return log if keep.all() else log.take(keep)


def filter_k_core(log: InteractionLog, k: int) -> tuple[InteractionLog, list[int]]:
    """The largest part of the log in which every user and item has `k` interactions; rows removed per round."""
    rounds: list[int] = []
    while len(log.users):
        enough_of_user = np.bincount(log.users) >= k
        enough_of_item = np.bincount(log.items) >= k
        keep = enough_of_user[log.users] & enough_of_item[log.items]
        removed = len(keep) - int(np.count_nonzero(keep))
        if not removed:
            break
        rounds.append(removed)
        log = log.take(keep)
    return log, rounds


def _refuse_too_small(log: InteractionLog, rounds: list[int], before: int, params: PrepareParams) -> None:
    sizes = _sizes(log)
    shown = ", ".join(f"{removed:,}" for removed in rounds[:SHOWN_ROUNDS]) or "none"
    if len(rounds) > SHOWN_ROUNDS:
        shown += f" and {len(rounds) - SHOWN_ROUNDS} rounds more"
    for what, least in (("users", params.min_users_after), ("items", params.min_items_after)):
        if sizes[what] < least:
            raise UnigrecError(
                f"prepare: {params.k_core}-core filtering left {sizes[what]:,} {what}, fewer than "
                f"prepare.min_{what}_after = {least:,}. Of {before:,} interactions the rounds removed: {shown}. "
                f"Bring more interactions, or lower prepare.k_core or prepare.min_{what}_after in params.yaml"
            )


def _rank(codes: np.ndarray, ids: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Codes to indices: the rank of each surviving id in byte order. Returns indices int32 (n,) and the sorted ids."""
    alive = np.flatnonzero(np.bincount(codes, minlength=len(ids)))
    alive_ids = ids.take(pa.array(alive))
    order = pc.sort_indices(alive_ids).to_numpy()
    rank = np.zeros(len(ids), dtype=np.int32)
    rank[alive[order]] = np.arange(len(alive), dtype=np.int32)
    return rank[codes], alive_ids.take(pa.array(order))


def _train_count(items: np.ndarray, offsets: np.ndarray, n_items: int) -> np.ndarray:
    """Training interactions per item, int32 (N,): all but the last two of a user; all where a user has fewer than 3."""
    lengths = np.diff(offsets)
    training = np.where(lengths > HELD_OUT, lengths - HELD_OUT, lengths)
    position = np.arange(len(items)) - np.repeat(offsets[:-1], lengths)
    return np.bincount(items[position < np.repeat(training, lengths)], minlength=n_items).astype(np.int32)


def _catalogue(items: pa.Table, item_ids: pa.Array, train_count: np.ndarray) -> pa.Table:
    rows = items.take(pc.index_in(item_ids, value_set=items["item_id"].combine_chunks()))
    columns = {"item_index": pa.array(np.arange(len(item_ids), dtype=np.int32)), "item_id": item_ids}
    texts = {name: rows[name] for name in rows.column_names if name not in (*columns, "train_count")}
    return pa.table({**columns, **texts, "train_count": pa.array(train_count)})


def _sizes(log: InteractionLog) -> dict[str, int]:
    def distinct(codes: np.ndarray) -> int:
        return int(np.count_nonzero(np.bincount(codes))) if len(codes) else 0

    return {"users": distinct(log.users), "items": distinct(log.items), "interactions": len(log.users)}


def _shape(sequences: dict[str, np.ndarray], n_items: int) -> dict:
    """Figures of the sequences: lengths, density, and the share of neighbours whose order the times do not give."""
    offsets, timestamps = sequences["offsets"], sequences["timestamps"]
    lengths = np.diff(offsets)
    inside = np.ones(max(len(timestamps) - 1, 0), dtype=bool)  # neighbours of one user
    inside[offsets[1:-1] - 1] = False
    ties = int(np.count_nonzero(inside & (np.diff(timestamps) == 0)))
    pairs = int(np.count_nonzero(inside))
    return {
        "length": {"min": int(lengths.min()), "mean": float(lengths.mean()), "max": int(lengths.max())},
        "density": len(timestamps) / (len(lengths) * n_items),
        "adjacent_tie_share": ties / pairs if pairs else 0.0,
        "held_out_users": int(np.count_nonzero(lengths > HELD_OUT)),
        "first_timestamp": int(timestamps.min()),
        "last_timestamp": int(timestamps.max()),
    }
