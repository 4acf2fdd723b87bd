"""Signs of misread data: what the stage `prepare` warns of, though no expectation is broken.

Each warning is a plain sentence with its figure. docs/own-data.md lists them. Shapes: U users, N items, n interactions,
P pairs of neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unigrec.data.holdout import is_evaluated

# What programs write for a missing value when they make it a text, in lower case.
NULL_WORDS = ("nan", "none", "null", "nat", "<na>", "n/a", "#n/a", "nil", "undefined", "(null)")
MAX_NULL_WORD_SHARE = 0.005  # of the rows
MAX_USER_SHARE = 0.05  # of the interactions by one user, if that is more than ten times the mean too
MAX_TIMES_MEAN = 10
MAX_TARGET_SHARE = 0.1  # of the test items that are one item
MIN_TARGETS = 10  # users with that test item; among fewer, the share may be chance
QUICK_SECONDS = 60
MAX_QUICK_SHARE = 0.05  # of the interactions that repeat the item before them within QUICK_SECONDS
DAY = 86_400  # seconds
MAX_ECHO_SHARE = 0.1  # of the interactions that come again after one and the same time of less than a day
MAX_REPEATED_TEST_SHARE = 0.3  # of the test items that equal the item before them
MIN_TIES = 50  # fewer say nothing about their order
MIN_TIE_SHARE = 0.01  # of the neighbours, or of the test items
MAX_ORDERED_SHARE = 0.65  # of the ties that follow one order of the items; without an order it is one half
ROWS_AT_ONCE = 2**22  # of the log, where a step takes a multiple of its memory
DEVIATIONS = 5  # standard deviations by which the share must differ from one half


class Signs(NamedTuple):
    """Figures for stats.json, and a sentence for each that is out of bounds."""

    figures: dict[str, float]
    warnings: list[str]


def null_words(column: str, values: pa.Array, counts: np.ndarray, total: int = 0) -> list[str]:
    """Warn of values that are the text of a missing value, such as "nan".

    Args:
        values: the distinct texts of a column. counts: rows of each. total: rows of the column, if `values` are only
            its frequent texts (those with more than MAX_NULL_WORD_SHARE of the rows); 0: sum of `counts`.
    """
    short = pc.fill_null(pc.less_equal(pc.utf8_length(values), 2 + max(map(len, NULL_WORDS))), False)
    rows = np.flatnonzero(short.to_numpy(zero_copy_only=False))
    total, found = total or max(int(counts.sum()), 1), []
    for row, text in zip(rows, values.take(pa.array(rows)).to_pylist(), strict=True):
        if text.strip().lower() in NULL_WORDS and counts[row] / total > MAX_NULL_WORD_SHARE:
            found.append(
                f"{counts[row] / total:.1%} of the rows have the {column} {text!r}, which looks like a missing value "
                "that was written as text: leave such values empty"
            )
    return found


def null_texts(items: pa.Table) -> list[str]:
    """As `null_words`, for every text column of the items."""
    found = []
    for name in items.column_names:
        column = items[name].combine_chunks()
        if name == "item_id" or not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            continue
        counted = pc.value_counts(column)
        found += null_words(name, counted.field("values"), counted.field("counts").to_numpy())
    return found


def find_signs(
    sequences: dict[str, np.ndarray], user_ids: pa.Array, item_ids: pa.Array, types: np.ndarray | None = None
) -> Signs:
    """Look for all other signs in prepared sequences: arrays as in `Prepared`, ids (U,) and (N,) in byte order.

    types: (n,) indices of event types. Events of two types, such as a view and a purchase, are no event that is there
    twice.
    """
    offsets, items, times = (sequences[name] for name in ("offsets", "items", "timestamps"))
    inside = np.ones(len(items) - 1, bool)  # (P,) neighbours of one user
    inside[offsets[1:-1] - 1] = False
    last = offsets[1:][is_evaluated(sequences)] - 1  # positions of the test items
    parts = (
        _heavy_users(np.diff(offsets), user_ids),
        _dominant_target(items[last], item_ids),
        _repeats(items, times, types, inside=inside, last=last),
        _echoes(items, times, types, offsets),
        _tie_order(items, times, inside=inside, last=last, item_ids=item_ids),
    )
    figures = {name: value for part in parts for name, value in part.figures.items()}
    return Signs(figures, [warning for part in parts for warning in part.warnings])


def _heavy_users(lengths: np.ndarray, user_ids: pa.Array) -> Signs:
    shares = lengths / lengths.sum()
    heavy = np.flatnonzero((shares > MAX_USER_SHARE) & (lengths > MAX_TIMES_MEAN * lengths.mean()))
    warnings = [
        f"user {user_ids[user].as_py()!r} has {shares[user]:.1%} of the interactions: if it is a robot or stands for "
        "many people, remove it, or limit it with prepare.max_user_interactions"
        for user in heavy[np.argsort(-shares[heavy], kind="stable")].tolist()
    ]
    return Signs({"max_user_share": float(shares.max())}, warnings)


def _dominant_target(targets: np.ndarray, item_ids: pa.Array) -> Signs:
    counts = np.bincount(targets, minlength=1)
    item, share = int(counts.argmax()), float(counts.max() / max(len(targets), 1))
    if share <= MAX_TARGET_SHARE or counts[item] < MIN_TARGETS:
        return Signs({"max_target_share": share}, [])
    sentence = (
        f"item {item_ids[item].as_py()!r} is the test item of {share:.1%} of the users: a model that always begins "
        "with it has that Recall@10; if nobody chooses it (a voucher, a fee), remove it"
    )
    return Signs({"max_target_share": share}, [sentence])


def _repeats(
    items: np.ndarray, times: np.ndarray, types: np.ndarray | None, inside: np.ndarray, last: np.ndarray
) -> Signs:
    """Neighbours that are one item, in all and among the test items."""
    again = inside & (items[1:] == items[:-1])
    twice = again & (np.diff(times) <= QUICK_SECONDS)
    if types is not None:
        twice &= types[1:] == types[:-1]
    quick = float(np.count_nonzero(twice) / len(items))
    test = float(again[last - 1].mean()) if len(last) else 0.0
    warnings = []
    if quick > MAX_QUICK_SHARE:
        warnings.append(
            f"{quick:.1%} of the interactions repeat the user's item before them within {QUICK_SECONDS} s: the log may "
            "hold events twice (two trackers, double clicks); keep one of them"
        )
    if test > MAX_REPEATED_TEST_SHARE:
        warnings.append(
            f"the test item of {test:.1%} of the users is the item before it: unmasked figures mean nothing, since "
            "repeating the last item reaches them; read the masked ones"
        )
    return Signs({"quick_repeat_share": quick, "repeated_test_share": test}, warnings)


def _echoes(items: np.ndarray, times: np.ndarray, types: np.ndarray | None, offsets: np.ndarray) -> Signs:
    """Interactions that come again after one and the same time: an export that was written twice, with a shift."""
    n_items, n_types = int(items.max()) + 1, 1 if types is None else int(types.max()) + 1
    counts = np.zeros(DAY, np.int64)  # of each lag in seconds
    low, users = 0, len(offsets) - 1
    while low < users:  # some users at a time: the numbers below take much more memory than the log
        high = min(max(int(np.searchsorted(offsets, offsets[low] + ROWS_AT_ONCE, side="right")) - 1, low + 1), users)
        rows = slice(offsets[low], offsets[high])
        pairs = np.repeat(np.arange(high - low), np.diff(offsets[low : high + 1])) * n_items + items[rows]
        if types is not None:
            pairs = pairs * n_types + types[rows]
        order = np.argsort(pairs, kind="stable")  # in time order within a user, an item and a type
        lags = np.diff(times[rows][order])[np.diff(pairs[order]) == 0]
        counts += np.bincount(lags[lags < DAY], minlength=DAY)
        low = high
    share = float(counts.max() / len(items))
    if share <= MAX_ECHO_SHARE:
        return Signs({"echo_share": share}, [])
    sentence = (
        f"{share:.1%} of the interactions come again exactly {counts.argmax():,} s later (same user and item): the log "
        "may hold an export twice, or two zones of time; keep one of them"
    )
    return Signs({"echo_share": share}, [sentence])


def _tie_order(items: np.ndarray, times: np.ndarray, inside: np.ndarray, last: np.ndarray, item_ids: pa.Array) -> Signs:
    """Whether interactions with one time follow an order of the items, and so decide what the test items are.

    A source that is sorted by item within a time (or by any other of its columns) gives each user the same order of the
    same items, and a model finds it: on random data it then beats chance.
    """
    tied = inside & (np.diff(times) == 0) & (np.diff(items) != 0)  # one item with itself has no order
    decided = float(tied[last - 1].mean()) if len(last) else 0.0
    figures = {"test_tie_share": decided}
    if (ties := int(np.count_nonzero(tied))) < MIN_TIES:
        return Signs(figures, [])
    share_tied = ties / np.count_nonzero(inside)
    shares = dict(_ordered_shares(items, tied, item_ids))
    order = max(shares, key=lambda name: abs(shares[name] - 0.5))
    ordered = max(shares[order], 1 - shares[order])
    figures["ordered_tie_share"] = ordered
    if (
        ordered < MAX_ORDERED_SHARE
        or ordered - 0.5 < DEVIATIONS * 0.5 / np.sqrt(ties)
        or max(share_tied, decided) < MIN_TIE_SHARE
    ):
        return Signs(figures, [])
    direction = "one" if order == ANY_ORDER else "ascending" if shares[order] > 0.5 else "descending"
    days = " (the times are days)" if not (times % DAY).any() else ""
    sentence = (
        f"{share_tied:.1%} of a user's neighbouring interactions have one time{days}, and {ordered:.1%} of these are "
        f"in {direction} order of {order} (by chance: 50%). If the source is sorted by item within a time, that order "
        f"decides the test item of {decided:.1%} of the users, and a model learns it: write exact times or the true "
        "order, or set prepare.ties to shuffled"
    )
    return Signs(figures, [sentence])


BY_ID, BY_NUMBER, ANY_ORDER = "the item id", "the number in the item id", "the items, the same for all users"


def _ordered_shares(items: np.ndarray, tied: np.ndarray, item_ids: pa.Array) -> Iterator[tuple[str, float]]:
    """(order, share of the ties whose second item is the later one in it). tied: (n - 1,) bool."""
    first, second = items[:-1][tied], items[1:][tied]
    yield BY_ID, float((second > first).mean())  # the index is the rank of the id in byte order
    lengths = pc.utf8_length(item_ids).to_numpy(zero_copy_only=False)
    rank = np.empty(len(lengths), np.int64)
    rank[np.argsort(lengths, kind="stable")] = np.arange(len(lengths))  # "9" before "10"
    yield BY_NUMBER, float((rank[second] > rank[first]).mean())
    # An order by another column: is an item the later one of a tie here, if it is so in the other runs of ties?
    # A row counts 1 as the later one of a tie and -1 as the earlier one; its own part leaves its item's sums.
    before, after = (np.r_[False, tied[:-1]][tied], np.r_[tied[1:], False][tied])  # the tie goes on
    as_first, as_second = (np.bincount(part, minlength=len(item_ids)) for part in (first, second))
    place, number = as_second - as_first, as_second + as_first
    others_of_first, others_of_second = number[first] - (1 + before), number[second] - (1 + after)
    known = (others_of_first > 0) & (others_of_second > 0)
    if np.count_nonzero(known) >= MIN_TIES:
        earlier = ((place[first] - (before - 1)) / np.maximum(others_of_first, 1))[known]
        later = ((place[second] - (1 - after)) / np.maximum(others_of_second, 1))[known]
        yield ANY_ORDER, float((later > earlier).mean() + (later == earlier).mean() / 2)
