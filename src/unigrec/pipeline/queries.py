"""Queries made from the catalogue, for the item that they are made of: what visitors might type to find it.

    title          three words of its title
    few words      one or two words of its title
    brand and kind its brand, and its most special category or else a word of its title
    attribute      the value of one of its columns

The words of a query stand in the order of the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import numpy as np

from unigrec.embedding.words import words_in

TITLE, BRAND, CATEGORIES = "title", "brand", "categories"
CATEGORY_SEPARATOR = ">"


class QueryKind(StrEnum):
    """What a query is made of."""

    TITLE = "title"
    FEW_WORDS = "few words"
    BRAND_AND_KIND = "brand and kind"
    ATTRIBUTE = "attribute"


def make_query(kind: QueryKind, item: Mapping[str, str | None], generator: np.random.Generator) -> str | None:
    """A query for an item, or None if its columns have not what this kind needs.

    Args:
        item: text column -> its text.
    """
    title = list(dict.fromkeys(words_in(item.get(TITLE) or "")))
    brand = item.get(BRAND)
    match kind:
        case QueryKind.TITLE:
            return _drawn(title, 3, generator)
        case QueryKind.FEW_WORDS:
            return _drawn(title, int(generator.integers(1, 3)), generator)
        case QueryKind.BRAND_AND_KIND:
            special = (item.get(CATEGORIES) or "").split(CATEGORY_SEPARATOR)[-1].strip()
            rest = special or _drawn([word for word in title if word not in words_in(brand or "")], 1, generator)
            return f"{brand} {rest}" if brand and rest else None
        case QueryKind.ATTRIBUTE:
            values = [text for name in (BRAND, CATEGORIES) if (text := item.get(name))]
            return str(generator.choice(values)) if values else None


def _drawn(words: Sequence[str], count: int, generator: np.random.Generator) -> str | None:
    if len(words) < count:
        return None
    places = sorted(generator.choice(len(words), count, replace=False).tolist())
    return " ".join(words[place] for place in places)
