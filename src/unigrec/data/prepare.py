"""From the two tables to integer sequences: remove duplicates, filter to the k-core, order by time, number the ids.

Legend, after filtering: U users, N items, n interactions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unigrec.base.errors import UnigrecError
from unigrec.config.schema import PrepareParams
from unigrec.data.holdout import HELD_OUT, is_evaluated, is_training
from unigrec.data.warning_signs import find_signs, null_texts, null_words

REQUIRED = ("user_id", "item_id", "timestamp")
SHOWN_ROUNDS = 12  # of the k-core, in an error message


class Prepared(NamedTuple):
    """The outputs of the stage `prepare`.

    sequences: items int32 (n,) and timestamps int64 (n,), user after user, each in time order; offsets int64 (U+1,):
        user u owns [offsets[u], offsets[u+1]); with event types also weights and validation (`split_by_events`)
    users: user_index int32, user_id string; index = rank of the id in byte order
    catalogue: item_index int32, item_id string, the text columns, train_count int32 (training interactions of the item)
    stats: sizes before and after, rows removed per k-core round, lengths, density, share of ties, figures of
        `warning_signs.find_signs`, and `warnings`: a sentence per sign that the data was misread
    """

    sequences: dict[str, np.ndarray]
    users: pa.Table
    catalogue: pa.Table
    stats: dict


class InteractionLog(NamedTuple):
    """Interactions as integers: indices into the arrays of distinct ids, in the given row order."""

    users: np.ndarray  # int32
    items: np.ndarray  # int32
    timestamps: np.ndarray  # int64, unix seconds
    events: np.ndarray | None = None  # int64, index of the event type in params; None: all rows are of one type

    def take(self, rows: np.ndarray) -> InteractionLog:
        events = None if self.events is None else self.events[rows]
        return InteractionLog(self.users[rows], self.items[rows], self.timestamps[rows], events)


class Done(NamedTuple):
    """What was counted before the k-core, or in its first rounds."""

    before: dict[str, int]  # users, items and interactions of the source
    unknown: int  # rows removed because items lack theirs
    duplicates: int  # rows removed
    capped: int  # rows beyond `params.max_user_interactions`
    rounds: list[int]  # rows removed per round of the k-core
    warnings: list[str]


def prepare_tables(
    interactions: pa.Table,
    items: pa.Table,
    params: PrepareParams,
    events: Mapping[str, float] | None = None,
    max_unknown: float = 0.0,
) -> Prepared:
    """Filter to the k-core, order by time and map ids to integers.

    Rows equal in user, item, time and event type are one interaction. Users and items with fewer than `params.k_core`
    interactions are removed, round after round, until all have enough. A user's interactions are ordered by time. Those
    with the same time keep the order of the source, so a source that knows their order should write it; or, with
    `params.ties` shuffled, a hash of user and item decides. Of a user with more than `params.max_user_interactions`,
    only the latest count.

    Args:
        interactions: user_id string, item_id string, timestamp int64 (unix seconds).
        items: item_id string and text columns.
        events: weight of each event type as a training target; interactions then have a column `event`.
        max_unknown: share of the interactions whose items may be unknown; these are left out.

    Raises:
        UnigrecError: an id or time is missing, more items are unknown, an item is defined twice, fewer users or items
            than `params.min_users_after` and `params.min_items_after` are left, or fewer users than that have enough
            interactions to be evaluated or to be trained on.
    """
    refuse_nulls("interactions", interactions.num_rows, {name: interactions[name].null_count for name in REQUIRED})
    users, user_ids = _index(interactions["user_id"])
    chosen, item_ids = _index(interactions["item_id"])
    of_user = np.bincount(users, minlength=len(user_ids))
    of_item = np.bincount(chosen, minlength=len(item_ids))
    unknown = unknown_items(items, item_ids, of_item, max_unknown)
    warnings = [
        *null_words("user_id", user_ids, of_user),
        *null_words("item_id", item_ids, of_item),
        *null_texts(items),
    ]
    types = event_types(interactions["event"], events) if events else None
    log = InteractionLog(users, chosen, interactions["timestamp"].to_numpy(), types)
    before = {"users": len(user_ids), "items": len(item_ids), "interactions": len(log.users)}
    if unknown.rows:
        log = log.take(np.flatnonzero(~unknown.items[log.items]))
    log = _in_order(log, _tie_keys(log, user_ids, item_ids) if params.ties == "shuffled" else None)

    rows = len(log.users)
    log = drop_duplicates(log)
    duplicates = rows - len(log.users)
    log, capped = keep_latest(log, params.max_user_interactions)
    done = Done(before, unknown.rows, duplicates, capped, [], [*unknown.warnings(len(users)), *warnings])
    return finish(log, user_ids, item_ids, done, items=items, params=params, events=events)


def finish(
    log: InteractionLog,
    user_ids: pa.Array,
    item_ids: pa.Array,
    done: Done,
    *,
    items: pa.Table,
    params: PrepareParams,
    events: Mapping[str, float] | None,
) -> Prepared:
    """What is left to do with a log in order, without duplicates and with the latest interactions alone.

    Args:
        log: sorted by user. user_ids, item_ids: that the log indexes, in byte order. done: what was done before.
        items, params, events: as in `prepare_tables`, which has the errors too.
    """
    log, rounds = filter_k_core(log, params.k_core)
    rounds = done.rounds + rounds
    _refuse_too_small(log, rounds, done.before["interactions"], params)
    if not events:
        _refuse_too_short(np.bincount(log.users), params)

    user_index, user_ids = _renumber(log.users, user_ids)
    item_index, item_ids = _renumber(log.items, item_ids)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user_index, minlength=len(user_ids)))]).astype(np.int64)
    sequences = {"items": item_index, "timestamps": log.timestamps, "offsets": offsets}
    types = log.events
    if events and types is not None:
        sequences = split_by_events(sequences, types, events, params.evaluation_event)
        types = sequences.pop("types")
        _refuse_few_evaluated(sequences["validation"], params)
        _refuse_few_trained(sequences, params)

    signs = find_signs(sequences, user_ids, item_ids, types)
    indices = pa.array(np.arange(len(user_ids), dtype=np.int32))
    train_count = np.bincount(sequences["items"][is_training(sequences)], minlength=len(item_ids)).astype(np.int32)
    stats = {
        "before": done.before,
        "after": _sizes(log),
        "unknown_items_removed": done.unknown,
        "duplicates_removed": done.duplicates,
        "beyond_max_user_interactions": done.capped,
        "k_core": params.k_core,
        "k_core_rounds": rounds,
        **_shape(sequences, len(item_ids)),
        **signs.figures,
        "warnings": done.warnings + signs.warnings,
    }
    users_table = pa.table({"user_index": indices, "user_id": user_ids})
    return Prepared(sequences, users_table, _catalogue(items, item_ids, train_count), stats)


def refuse_nulls(where: str, rows: int, nulls: Mapping[str, int]) -> None:
    """Check again what the stage `validate` checks, for callers that run this one alone; so does `unknown_items`.

    nulls: rows without a value, per column.
    """
    for name, missing in nulls.items():
        if missing:
            raise UnigrecError(
                f"{where}: {missing:,} of {rows:,} rows have no {name}; run `unigrec stage validate` for the rows"
            )


class Unknown(NamedTuple):
    """Items of the interactions that the items table lacks."""

    items: np.ndarray  # (N,) bool
    rows: int  # interactions with them

    def warnings(self, of: int) -> list[str]:
        """of: the number of all interactions."""
        if not self.rows:
            return []
        share, items = f"{self.rows:,} of {of:,} interactions ({self.rows / of:.2%})", f"{int(self.items.sum()):,}"
        return [f"{share} are of {items} items that the items table lacks: they are left out"]


def unknown_items(items: pa.Table, item_ids: pa.Array, counts: np.ndarray, most: float) -> Unknown:
    """The interactions' items that `items` lacks.

    Args:
        item_ids: (N,) distinct items of the interactions. counts: (N,) rows of each. most: share of the rows.

    Raises:
        UnigrecError: an item has no id or is defined twice, or more rows than the share are of unknown items.
    """
    known = items["item_id"]
    refuse_nulls("items", items.num_rows, {"item_id": known.null_count})
    distinct = pc.count_distinct(known).as_py()
    if distinct != len(known):
        repeated = len(known) - distinct
        raise UnigrecError(f"items: {repeated:,} rows repeat an item_id; run `unigrec stage validate` for the rows")
    unknown = pc.invert(pc.is_in(item_ids, value_set=known.combine_chunks())).to_numpy(zero_copy_only=False)
    rows = int(counts[unknown].sum())
    if rows > round(most * int(counts.sum()), 6):
        raise UnigrecError(f"interactions: {rows:,} rows name an item that items lacks; run `unigrec stage validate`")
    return Unknown(unknown, rows)


def event_types(column: pa.ChunkedArray | pa.Array, events: Mapping[str, float]) -> np.ndarray:
    """Index int64 (n,) of each row's event type among `events`."""
    return pc.index_in(column, value_set=pa.array(list(events))).to_numpy(zero_copy_only=False).astype(np.int64)


def _index(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Index int32 (n,) of each row's id, and the distinct ids in byte order."""
    encoded = column.dictionary_encode().combine_chunks()
    order = pc.sort_indices(encoded.dictionary)
    rank = np.empty(len(order), dtype=np.int32)
    rank[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    return rank[encoded.indices.to_numpy(zero_copy_only=False)], encoded.dictionary.take(order)


def _tie_keys(log: InteractionLog, user_ids: pa.Array, item_ids: pa.Array) -> np.ndarray:
    """A hash of each row's user and item, uint64 (n,): the same in any order and next to any other rows."""
    users, items = hashes(user_ids), hashes(item_ids)
    return mixed(users[log.users], items[log.items])


def hashes(ids: pa.Array) -> np.ndarray:
    """A hash uint64 of each text."""
    from pandas.util import hash_array

    return hash_array(ids.to_numpy(zero_copy_only=False), categorize=False)


def mixed(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """A hash of each pair of hashes, uint64."""
    from pandas.util import hash_array

    return hash_array(users * np.uint64(31) + items)  # unsigned: it wraps around


def _in_order(log: InteractionLog, tie_keys: np.ndarray | None) -> InteractionLog:
    """Sort by user, then by time; rows equal in both go by `tie_keys` (n,), or else keep the given order."""
    if tie_keys is not None:
        log = log.take(np.argsort(tie_keys, kind="stable"))
    by_time = np.argsort(log.timestamps, kind="stable")
    return log.take(by_time[np.argsort(log.users[by_time], kind="stable")])


def drop_duplicates(log: InteractionLog) -> InteractionLog:
    """Keep the first of rows equal in user, item, time and event. The log is in order: they lie in runs of one time."""
    # Only rows that share user and time with a neighbour can be duplicates: sort those alone.
    tied = (log.users[1:] == log.users[:-1]) & (log.timestamps[1:] == log.timestamps[:-1])
    rows = np.flatnonzero(np.r_[tied, False] | np.r_[False, tied])
    if not len(rows):
        return log
    run = np.cumsum(np.r_[True, ~tied])[rows]
    types = 0 if log.events is None else log.events[rows]
    run_and_item = run << 32 | (log.items[rows].astype(np.int64) * (np.max(types) + 1) + types)
    order = np.argsort(run_and_item, kind="stable")
    repeats = run_and_item[order[1:]] == run_and_item[order[:-1]]
    if not repeats.any():
        return log
    keep = np.ones(len(log.users), dtype=bool)
    keep[rows[order[1:][repeats]]] = False
    return log.take(keep)


def keep_latest(log: InteractionLog, maximum: int) -> tuple[InteractionLog, int]:
    """The last `maximum` interactions of each user (0: all of them), and how many others there were."""
    lengths = np.bincount(log.users)
    if not maximum or lengths.max(initial=0) <= maximum:
        return log, 0
    from_the_end = np.cumsum(lengths)[log.users] - np.arange(len(log.users))  # 1 is a user's last
    kept = log.take(from_the_end <= maximum)
    return kept, len(log.users) - len(kept.users)


def filter_k_core(log: InteractionLog, k: int) -> tuple[InteractionLog, list[int]]:
    """The largest part of the log in which each user and item has at least `k` interactions; rows removed per round."""
    rounds: list[int] = []
    of_user, of_item = np.bincount(log.users), np.bincount(log.items)
    left = np.ones(len(log.users), dtype=bool)
    while True:
        removed = np.flatnonzero(left & ~((of_user >= k)[log.users] & (of_item >= k)[log.items]))
        if not len(removed):
            return (log.take(left) if rounds else log), rounds
        rounds.append(len(removed))
        left[removed] = False
        of_user -= np.bincount(log.users[removed], minlength=len(of_user))
        of_item -= np.bincount(log.items[removed], minlength=len(of_item))


def _refuse_too_small(log: InteractionLog, rounds: list[int], before: int, params: PrepareParams) -> None:
    sizes = _sizes(log)
    shown = ", ".join(f"{removed:,}" for removed in rounds[:SHOWN_ROUNDS]) or "none"
    if len(rounds) > SHOWN_ROUNDS:
        shown += f" and {len(rounds) - SHOWN_ROUNDS} rounds more"
    for what, minimum in (("users", params.min_users_after), ("items", params.min_items_after)):
        if sizes[what] < minimum:
            raise UnigrecError(
                f"prepare: {params.k_core}-core filtering left {sizes[what]:,} {what}, fewer than "
                f"prepare.min_{what}_after = {minimum:,}. Of {before:,} interactions the rounds removed: {shown}. "
                f"Bring more interactions, or lower prepare.k_core or prepare.min_{what}_after in params.yaml"
            )


def _refuse_too_short(lengths: np.ndarray, params: PrepareParams) -> None:
    """lengths: (U,) interactions per user that is left; 0 for others."""
    evaluated = lengths > HELD_OUT
    # A training target needs an item before it. Users who are not evaluated train with all that they have.
    trained = lengths - HELD_OUT * evaluated >= 2
    for what, users, needs in (
        ("evaluated", evaluated, "three interactions: one to begin with, one for validation, one for the test"),
        ("trained on", trained, "two interactions besides those of validation and test"),
    ):
        if (count := int(np.count_nonzero(users))) < params.min_users_after:
            raise UnigrecError(
                f"prepare: of {np.count_nonzero(lengths):,} users, {count:,} can be {what}, fewer than "
                f"prepare.min_users_after = {params.min_users_after:,}; that takes {needs}. Bring longer histories, or "
                "lower prepare.min_users_after in params.yaml (but not to what nobody reaches)"
            )


def _renumber(index: np.ndarray, ids: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Index int32 (n,) among the ids that are left, in the same order, and those ids."""
    left = np.bincount(index, minlength=len(ids)) > 0
    new_index = np.cumsum(left, dtype=np.int32) - 1
    return new_index[index], ids.filter(pa.array(left))


def split_by_events(
    sequences: dict[str, np.ndarray], types: np.ndarray, events: Mapping[str, float], evaluation_event: str
) -> dict[str, np.ndarray]:
    """Let the last event that is evaluated be the test item, and the one before it the validation item.

    Evaluated are events of type `evaluation_event`, or, without one, of types with a weight above 0. What follows a
    user's test item is removed. Users with fewer than two evaluated events, or none before them, only train.

    Args:
        sequences: items, timestamps and offsets as in `Prepared`. types: (n,) index of each event's type in `events`.

    Returns:
        The sequences, with weights float32 (n,), of each event as a training target and 1 on average over all training
        targets; types (n,), those of the events that stay; and validation int64 (U,), the position of the validation
        item or -1.
    """
    offsets, n = sequences["offsets"], len(types)
    weight = np.array(list(events.values()), np.float32)
    evaluated = weight > 0 if not evaluation_event else np.array([name == evaluation_event for name in events])
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    places = np.flatnonzero(evaluated[types])
    count = np.bincount(users[places], minlength=len(offsets) - 1)
    ends = np.cumsum(count)
    padded = np.concatenate([[-1, -1], places])  # of a user with enough events, the last two are at ends + 1 and ends
    test, validation = padded[ends + 1], padded[ends]
    held_out = (count >= HELD_OUT) & (validation > offsets[:-1])

    keep = ~held_out[users] | (np.arange(n) <= test[users])
    lengths = np.bincount(users[keep], minlength=len(offsets) - 1)
    new_offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    new_position = np.cumsum(keep) - 1
    validation = np.where(held_out, new_position[validation], -1).astype(np.int64)
    kept = {name: sequences[name][keep] for name in ("items", "timestamps")}
    weights = weight[types[keep]]
    starts = np.repeat(new_offsets[:-1], lengths)
    train_ends = np.repeat(np.where(held_out, validation, new_offsets[1:]), lengths)
    positions = np.arange(len(weights))
    targets = weights[(positions > starts) & (positions < train_ends)]
    mean = targets.mean(dtype=np.float64) if len(targets) else 0.0
    weights = (weights / mean).astype(np.float32) if mean else weights
    return {**kept, "offsets": new_offsets, "types": types[keep], "weights": weights, "validation": validation}


def _refuse_few_evaluated(validation: np.ndarray, params: PrepareParams) -> None:
    count = int(np.count_nonzero(validation >= 0))
    if count < params.min_users_after:
        event = f"events {params.evaluation_event!r}" if params.evaluation_event else "events with a weight above 0"
        raise UnigrecError(
            f"prepare: {count:,} users can be evaluated, fewer than prepare.min_users_after = "
            f"{params.min_users_after:,}; that takes two {event} and an interaction before them. Bring longer "
            "histories, or change ingest.events or prepare.evaluation_event"
        )


def _refuse_few_trained(sequences: dict[str, np.ndarray], params: PrepareParams) -> None:
    """A training target is any interaction of a user but the first and those held out, with a weight above 0."""
    offsets = sequences["offsets"]
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    is_target = is_training(sequences) & (sequences["weights"] > 0)
    is_target[offsets[:-1]] = False
    count = len(np.unique(user[is_target]))
    if count < params.min_users_after:
        raise UnigrecError(
            f"prepare: {count:,} users can be trained on, fewer than prepare.min_users_after = "
            f"{params.min_users_after:,}; that takes an event with a weight above 0 besides the two that are held out, "
            "and an interaction before it. Bring longer histories, or change ingest.events"
        )


def _catalogue(items: pa.Table, item_ids: pa.Array, train_count: np.ndarray) -> pa.Table:
    rows = items.take(pc.index_in(item_ids, value_set=items["item_id"].combine_chunks()))
    columns = {"item_index": pa.array(np.arange(len(item_ids), dtype=np.int32)), "item_id": item_ids}
    texts = {name: rows[name] for name in rows.column_names if name not in (*columns, "train_count")}
    return pa.table({**columns, **texts, "train_count": pa.array(train_count)})


def _sizes(log: InteractionLog) -> dict[str, int]:
    def distinct(index: np.ndarray) -> int:
        return int(np.count_nonzero(np.bincount(index))) if len(index) else 0

    return {"users": distinct(log.users), "items": distinct(log.items), "interactions": len(log.users)}


def _shape(sequences: dict[str, np.ndarray], n_items: int) -> dict:
    """Figures of the sequences: lengths, density, and the share of neighbours with equal times (order unknown)."""
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
        "held_out_users": int(np.count_nonzero(is_evaluated(sequences))),
        "first_timestamp": int(timestamps.min()),
        "last_timestamp": int(timestamps.max()),
    }
