"""Many texts without a Python object each, such as the ids and titles of ten million items, also in a mapped file.

    NAME_starts int64 (N + 1,), NAME_letters uint8: text i is the UTF-8 of letters[starts[i] : starts[i + 1]]
    NAME_hashes int32 (N,), rising, NAME_places int32 (N,): of an index, the hash of each text and its place

Shapes: N texts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import overload
from zlib import crc32

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from unigrec.core.blocks import are_starts

AT_ONCE = 2**16  # texts that are Python objects at a time
HALF = 2**31  # hashes are signed, as safetensors and torch have them


class Texts(Sequence[str]):
    """Texts in their order. column: (N,) strings. Raises ValueError when one is null."""

    def __init__(self, column: pa.ChunkedArray | pa.Array):
        if column.null_count:
            raise ValueError(f"{column.null_count} are null")
        if isinstance(column, pa.ChunkedArray):
            column = column.cast(pa.large_string()).combine_chunks()  # a string column has room for 2 GB of letters
        self.column: pa.Array = column

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

    def tensors(self, name: str) -> dict[str, Tensor]:
        """For a file; `stored_texts` reads them."""
        column = self.column.cast(pa.large_string())
        starts = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
        letters = np.frombuffer(column.buffers()[2] or b"", np.uint8)[starts[0] : starts[-1]]
        return {f"{name}_starts": torch.tensor(starts - starts[0]), f"{name}_letters": torch.tensor(letters)}


def stored_texts(tensors: Mapping[str, Tensor], name: str, checked: bool = False) -> Texts:
    """The texts, which stay where the tensors are. Raises ValueError when they are damaged.

    checked: the same tensors were read before, and their values are not looked at again.
    """
    starts, letters = (one_of(tensors, f"{name}_{part}", kind) for part, kind in _KINDS[:2])
    rows = len(starts) - 1
    ends = rows >= 0 and starts[0] == 0 and starts[-1] == len(letters)
    if not ends or not (checked or are_starts(starts, rows, len(letters))):
        raise ValueError(f"{name}: texts that do not lie in their letters")
    buffers = [None, *(pa.py_buffer(part.numpy()) for part in (starts, letters))]
    column = pa.Array.from_buffers(pa.large_string(), rows, buffers)
    try:
        column.validate(full=not checked)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{name}: {error}") from error
    return Texts(column)


_KINDS = (("starts", torch.int64), ("letters", torch.uint8), ("hashes", torch.int32), ("places", torch.int32))


def one_of(tensors: Mapping[str, Tensor], name: str, kind: torch.dtype) -> Tensor:
    """One of the tensors. Raises ValueError unless it is there, of this type and one dimension."""
    if name not in tensors or tensors[name].dtype != kind or tensors[name].dim() != 1:
        raise ValueError(f"{name}: expected {kind} of one dimension")
    return tensors[name]


class TextIndex(Mapping[str, int]):
    """The place of each text among different ones: a binary search among the sorted hashes of all.

    Raises ValueError when a text repeats.
    """

    def __init__(self, texts: Texts):
        self.texts = texts
        hashes = np.fromiter(map(_hash, texts), np.int32, len(texts))
        order = np.argsort(hashes)
        self._hashes = hashes[order]
        self._places = order.astype(np.int32)
        for place in np.flatnonzero(self._hashes[1:] == self._hashes[:-1]) + 1:
            text = texts[int(self._places[place])]
            if self[text] != self._places[place]:  # of equal texts, one is found
                raise ValueError(f"{text!r} repeats")

    def tensors(self, name: str) -> dict[str, Tensor]:
        """For a file, with those of the texts; `stored` reads them."""
        parts = {f"{name}_hashes": self._hashes, f"{name}_places": self._places}
        return self.texts.tensors(name) | {part: torch.as_tensor(values) for part, values in parts.items()}

    @classmethod
    def stored(cls, tensors: Mapping[str, Tensor], name: str, checked: bool = False) -> TextIndex:
        """The index, which stays where the tensors are. checked: as in `stored_texts`. Raises ValueError as it does.

        In a forged file, a text may not be found. None is taken for another: a search compares the texts.
        """
        index = cls.__new__(cls)
        index.texts = stored_texts(tensors, name, checked)
        hashes, places = (one_of(tensors, f"{name}_{part}", kind) for part, kind in _KINDS[2:])
        rows = len(index.texts)
        inside = checked or not rows or 0 <= places.min() <= places.max() < rows
        if not inside or not len(hashes) == len(places) == rows:
            raise ValueError(f"{name}: places that are not those of {rows} texts")
        index._hashes, index._places = hashes.numpy(), places.numpy()
        return index

    def __getitem__(self, text: str) -> int:
        value = np.int32(_hash(text))  # of the array's type: for another one, the whole array would be converted
        place = int(np.searchsorted(self._hashes, value))
        while place < len(self._hashes) and self._hashes[place] == value:
            index = int(self._places[place])
            if self.texts[index] == text:
                return index
            place += 1
        raise KeyError(text)

    def places(self, texts: Collection[str]) -> np.ndarray:
        """(n,) int64 the place of each of many texts, -1 for one that is not there."""
        asked = list(texts)
        found = np.full(len(asked), -1, np.int64)
        if not len(self) or not asked:
            return found
        hashes = np.fromiter(map(_hash, asked), np.int32, len(asked))
        nearest = np.minimum(np.searchsorted(self._hashes, hashes), len(self) - 1)
        rows = np.flatnonzero(self._hashes[nearest] == hashes)
        likely = self._places[nearest[rows]]
        for row, place, text in zip(rows, likely, self.texts.column.take(pa.array(likely)).to_pylist(), strict=True):
            # Of texts with one hash, the search found the first.
            found[row] = place if text == asked[row] else self.get(asked[row], -1)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)


def _hash(text: str) -> int:
    """Of the UTF-8, so that it is the same in each process, as Python's own is not."""
    return crc32(text.encode("utf-8", "surrogatepass")) - HALF
