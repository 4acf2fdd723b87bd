"""Checkpoints of our own: safetensors and JSON in a folder that is renamed into place: a kill leaves a whole one.

Nothing is pickled. A checkpoint belongs to one key, made from the stage's inputs: a stale one is never picked up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unigrec.artifacts import atomic_folder, read_json, read_tensors, write_json, write_tensors
from unigrec.errors import UnigrecError

TENSORS_FILE = "state.safetensors"
NUMBERS_FILE = "state.json"


class CheckpointFolder:
    """Where one training keeps its last checkpoint.

    Args:
        folder: the phase's folder; only `key`'s own checkpoint is read, others are removed on the first save.
    """

    def __init__(self, folder: Path, key: str):
        self.path = folder / key

    def save(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Replace the last checkpoint by this one."""
        with atomic_folder(self.path) as temporary:
            write_tensors(temporary / TENSORS_FILE, tensors)
            write_json(temporary / NUMBERS_FILE, numbers)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint, or None when there is none. A damaged one counts as none: training starts again."""
        if not self.path.is_dir():
            return None
        try:
            return read_tensors(self.path / TENSORS_FILE), read_json(self.path / NUMBERS_FILE)
        except UnigrecError as error:
            print(f"checkpoint ignored, training starts again: {error}", flush=True)
            return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: `optimizer.<parameter number>.<name>`."""
    return {
        f"optimizer.{number}.{name}": torch.as_tensor(value)
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put tensors named by `optimizer_tensors` back."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
