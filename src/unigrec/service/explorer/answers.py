"""What a worker answers the explorer, from a bundle: a function per question, as methods of `Bundle` answer others.

Shapes: N items, T codes per identifier.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unigrec.base.errors import UnigrecError
from unigrec.service.explorer.schema import (
    MOST_FOUND,
    Branch,
    BranchesAnswer,
    ItemsAnswer,
    NamedItem,
    TitlesAnswer,
    UserAnswer,
)
from unigrec.service.explorer.users import held_out_users

if TYPE_CHECKING:
    from unigrec.serving.bundle import Bundle

WORD_START = r"(^|[^\pL\pN])"  # RE2: no letter or digit before


def titles(bundle: Bundle, query: str, k: int) -> TitlesAnswer:
    """Items whose titles hold all words of a query, each at least as a part of a word; letters of any case.

    The item whose id is the query comes first, then titles that begin with the query, then titles in which every word
    of it begins a word; among equals, the most popular.
    """
    words = query.split()
    if not words:
        return TitlesAnswer(items=(), found=0)
    matches = np.ones(len(bundle.item_ids), dtype=bool)
    for word in words:
        matches &= _as_mask(pc.match_substring(bundle.titles.column, word, ignore_case=True))
    exact = bundle.index_of.get(query.strip(), -1)
    if exact >= 0:
        matches[exact] = True
    items = np.flatnonzero(matches)
    found = bundle.titles.column.take(pa.array(items))
    begins = _as_mask(pc.starts_with(found, " ".join(words), ignore_case=True))
    whole = np.ones(len(items), dtype=bool)
    for word in words:
        whole &= _as_mask(pc.match_substring_regex(found, WORD_START + re.escape(word), ignore_case=True))
    order = np.lexsort((items, -_popularity(bundle)[items], ~whole, ~begins, items != exact))
    return TitlesAnswer(items=_named(bundle, items[order[:k]]), found=len(items))


def items(bundle: Bundle, items: tuple[str, ...]) -> ItemsAnswer:
    """Titles and identifiers of those items that the catalogue holds."""
    known = [bundle.index_of[item] for item in items if item in bundle.index_of]
    absent = tuple(item for item in items if item not in bundle.index_of)
    return ItemsAnswer(items=_named(bundle, known), absent=absent)


def branches(bundle: Bundle, prefix: str) -> BranchesAnswer:
    """What lies below a prefix. Raises UnigrecError when no item has it."""
    codes = tuple(map(int, prefix.split("-"))) if prefix else ()
    length = bundle.identifiers.shape[1]
    below = np.zeros(0, dtype=np.int64)
    if len(codes) <= length:
        below = np.flatnonzero((bundle.identifiers[:, : len(codes)] == codes).all(axis=1))
    if not len(below):
        raise UnigrecError(f"no identifier begins with {prefix}")
    below = below[np.argsort(-_popularity(bundle)[below], kind="stable")]
    found: tuple[Branch, ...] = ()
    if len(codes) < length:
        nexts, first, counts = np.unique(bundle.identifiers[below, len(codes)], return_index=True, return_counts=True)
        examples = _named(bundle, below[first])
        found = tuple(
            Branch(code=int(nexts[row]), items=int(counts[row]), example=examples[row])
            for row in np.argsort(-counts, kind="stable")
        )
    return BranchesAnswer(
        prefix=codes,
        length=length,
        items=len(below),
        branches=found,
        members=_named(bundle, below[:MOST_FOUND]),
    )


def user(bundle: Bundle, number: int | None) -> UserAnswer:
    """A test user's history and held-out item. Raises UnigrecError when there is none of the number, or none at all."""
    users = held_out_users(bundle)
    if number is None:
        number = random.SystemRandom().randrange(users.size)  # workers are forks: they would draw the same numbers
    if number >= users.size:
        raise UnigrecError(f"no test user {number}; expected 0 to {users.size - 1}")
    drawn = users.user(number)
    return UserAnswer(
        number=number,
        of=users.size,
        source=users.source,
        history=_named(bundle, drawn.history),
        earlier=drawn.earlier,
        held_out=_named(bundle, [drawn.held_out])[0],
        rank=drawn.rank,
    )


def _named(bundle: Bundle, items: Iterable[int]) -> tuple[NamedItem, ...]:
    return tuple(
        NamedItem(
            item_id=bundle.item_ids[item],
            title=bundle.titles[int(item)],
            identifier=tuple(bundle.identifiers[item].tolist()),
        )
        for item in items
    )


def _popularity(bundle: Bundle) -> np.ndarray:
    """(N,) higher for more popular items; items that came after the training are the least popular."""
    found = np.full(len(bundle.item_ids), -np.inf)
    found[: bundle.trained] = bundle.popularity.scores().numpy()
    return found


def _as_mask(found: pa.BooleanArray) -> np.ndarray:
    return found.to_numpy(zero_copy_only=False).astype(bool)
