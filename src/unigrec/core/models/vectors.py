"""Item vectors that are too many to be copied: arrays side by side, gathered by batch.

Shapes: N items, D numbers per item in all, M items of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor


class ItemVectors:
    """What `torch.cat(parts, dim=1)` would be, of which only the rows that are asked for exist.

    It has those parts of a Tensor's interface that training needs, so a Tensor can stand in its place.

    Args:
        parts: (N, D_1), (N, D_2), ... on one device; D is the sum of their widths. A part may be a mapped file.
    """

    def __init__(self, parts: Sequence[Tensor]):
        self.parts = list(parts)
        self.shape = torch.Size((len(self.parts[0]), sum(part.shape[1] for part in self.parts)))

    @property
    def device(self) -> torch.device:
        return self.parts[0].device

    def __len__(self) -> int:
        return self.shape[0]

    def numel(self) -> int:
        return self.shape.numel()

    def to(self, device: torch.device) -> ItemVectors:
        """The same vectors on a device. Those that are there already are not copied."""
        return ItemVectors([part.to(device) for part in self.parts])

    def __getitem__(self, rows: Tensor | np.ndarray | slice) -> Tensor:
        """(M, D) the vectors of M items, given by their numbers, by a mask (N,) or as a slice."""
        if isinstance(rows, tuple):
            raise TypeError("only items are selected here; `columns` selects numbers of their vectors")
        return torch.cat([part[rows] for part in self.parts], dim=1)

    def split(self, size: int) -> Iterator[Tensor]:
        """All vectors in order, (at most `size`, D) at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


Vectors = Tensor | ItemVectors


def columns(vectors: Vectors, width: int) -> Tensor:
    """(N, width) the first numbers of all vectors: a view if one part has them."""
    if isinstance(vectors, Tensor):
        return vectors[:, :width]
    if width <= vectors.parts[0].shape[1]:
        return vectors.parts[0][:, :width]
    return torch.cat(vectors.parts, dim=1)[:, :width]
