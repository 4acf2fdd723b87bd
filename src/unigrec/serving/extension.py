"""What became of a bundle's catalogue after its training, as a file of the bundle. The file is not trusted.

    extension.safetensors   content float16 (M, D), since int64 (M,), withdrawn int32 (w,)

Added items are the last M of the catalogue. Shapes: N items in all, M added, w withdrawn, D content dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from unigrec.base import files
from unigrec.base.errors import UnigrecError

if TYPE_CHECKING:
    from pathlib import Path

TYPES = {"content": torch.float16, "since": torch.int64, "withdrawn": torch.int32}


class Extension(NamedTuple):
    """Items that were added, and trained ones that are no longer recommended."""

    content: torch.Tensor  # (M, D) of length 1
    since: torch.Tensor  # (M,) unix seconds when each was added
    withdrawn: torch.Tensor  # (w,) catalogue indices, rising, all of trained items

    @property
    def added(self) -> int:
        """M."""
        return len(self.since)


def write_extension(path: Path, extension: Extension) -> None:
    """Write it in the types of the file."""
    files.write_tensors(path, {name: getattr(extension, name).to(dtype) for name, dtype in TYPES.items()})


def read_extension(path: Path, items: int) -> Extension:
    """Raises UnigrecError unless the file holds an extension of a catalogue of that many items."""
    tensors = files.read_tensors(path)
    found = {name: tensors[name].dtype for name in TYPES if name in tensors}
    if found != TYPES:
        raise UnigrecError(f"{path}: expected tensors {TYPES}, found {found}")
    content, since, withdrawn = (tensors[name] for name in TYPES)
    trained = items - len(since)
    if content.dim() != 2 or since.dim() != 1 or withdrawn.dim() != 1 or len(content) != len(since) or trained < 1:
        raise UnigrecError(f"{path}: no extension of a catalogue of {items} items")
    rising = bool((withdrawn.diff() > 0).all())
    if not rising or (len(withdrawn) and not 0 <= int(withdrawn[0]) <= int(withdrawn[-1]) < trained):
        raise UnigrecError(f"{path}: withdrawn items that are none of the {trained} trained ones, or repeat")
    if not content.isfinite().all():
        raise UnigrecError(f"{path}: numbers that are not finite")
    return Extension(content.float(), since, withdrawn.long())
