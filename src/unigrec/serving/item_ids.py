"""The ids of a catalogue, without a Python object per item: ten million ids take 0.4 GB in place of 1.5 GB.

Shapes: N items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import overload

import numpy as np
import pyarrow as pa

AT_ONCE = 2**16  # ids that are Python objects at a time


class ItemIds(Sequence[str]):
    """The ids in catalogue order. column: (N,) strings. Raises ValueError when one is null."""

    def __init__(self, column: pa.ChunkedArray):
        if column.null_count:
            raise ValueError(f"{column.null_count} item ids are null")
        self.column: pa.Array = column.combine_chunks()

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        found = self.column[index]
        return found.to_pylist() if isinstance(index, slice) else found.as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), AT_ONCE):
            yield from self.column.slice(start, AT_ONCE).to_pylist()


class ItemIndex(Mapping[str, int]):
    """The place of each id in the catalogue: a binary search among the sorted hashes of all ids.

    Raises ValueError when an id repeats.
    """

    def __init__(self, ids: ItemIds):
        self.ids = ids
        hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
        order = np.argsort(hashes)
        self._hashes = hashes[order]
        self._places = order.astype(np.int32)
        for place in np.flatnonzero(self._hashes[1:] == self._hashes[:-1]) + 1:
            item = ids[int(self._places[place])]
            if self[item] != self._places[place]:  # of equal ids, one is found
                raise ValueError(f"the item id {item!r} repeats")

    def __getitem__(self, item: str) -> int:
        value = hash(item)
        place = int(np.searchsorted(self._hashes, value))
        while place < len(self._hashes) and self._hashes[place] == value:
            index = int(self._places[place])
            if self.ids[index] == item:
                return index
            place += 1
        raise KeyError(item)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)
