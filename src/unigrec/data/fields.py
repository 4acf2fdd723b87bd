"""Fields of items, such as brand and categories, as classes: the teacher learns to predict those of the next item.

A text holds one value, or several with " | " between them. A value may be a path, with " > " between its levels. Then
each level is a class: "Beauty > Nails" counts as "Beauty" and as "Beauty > Nails".

Shapes: N items, V classes of the item that has most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from unigrec.base.errors import UnigrecError

MIN_ITEMS = 5  # items per class: fewer say little about the class
BETWEEN_VALUES, BETWEEN_LEVELS = "|", ">"
NOT_FIELDS = ("item_index", "item_id", "train_count")  # columns of the prepared catalogue


class Fields(NamedTuple):
    """The fields that have classes.

    classes: (N, V) int64 per field, the classes of each item in rising order, then -1
    notes: which fields were ignored, and why
    """

    classes: list[np.ndarray]
    notes: list[str]


def item_fields(catalogue: pa.Table, names: Sequence[str]) -> Fields:
    """Classes of the named columns of a prepared catalogue.

    A value is a class if at least `MIN_ITEMS` items have it, and some item with another value does not.

    Raises:
        UnigrecError: the catalogue has no such column.
    """
    columns = [name for name in catalogue.column_names if name not in NOT_FIELDS]
    for name in names:
        if name not in columns:
            there = ", ".join(columns) or "none"
            raise UnigrecError(f"teacher.fields: the items have no column {name!r}; their columns are: {there}")
    fields = Fields([], [])
    for name in names:
        classes = _classes([values_of(text) for text in catalogue[name].to_pylist()])
        if classes.shape[1]:
            fields.classes.append(classes)
        else:
            fields.notes.append(f"warning: field {name} is ignored: no value tells {MIN_ITEMS} items from others")
    return fields


def values_of(text: str | None) -> set[str]:
    """The values in a text, each level of a path being one. The levels of a path keep what is above them."""
    values = set()
    for path in (text or "").split(BETWEEN_VALUES):
        levels = [level.strip() for level in path.split(BETWEEN_LEVELS)]
        values |= {BETWEEN_LEVELS.join(levels[:depth]) for depth in range(1, len(levels) + 1) if levels[depth - 1]}
    return values


def _classes(values: list[set[str]]) -> np.ndarray:
    """(N, V) from the values of each item; V is 0 if no value is a class."""
    counts = Counter(value for of_item in values for value in of_item)
    items_with_values = sum(map(bool, values))
    usable = sorted(value for value, count in counts.items() if MIN_ITEMS <= count < items_with_values)
    number = {value: place for place, value in enumerate(usable)}
    rows = [sorted(number[value] for value in of_item & number.keys()) for of_item in values]
    classes = np.full((len(rows), max(map(len, rows), default=0)), -1, np.int64)
    for row, found in zip(classes, rows, strict=True):
        row[: len(found)] = found
    return classes
