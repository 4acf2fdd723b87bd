"""The project's checkpoints: one safetensors file, renamed into place, so a kill at any moment leaves a complete one.

Nothing is pickled. A checkpoint belongs to one key, computed from the stage's inputs: a stale one is never loaded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unigrec.base.errors import UnigrecError
from unigrec.base.files import read_metadata, read_tensors, write_tensors
from unigrec.core.distributed import rank


class Stopped(Exception):
    """Training was asked to stop. Its state is saved: the same call resumes from it."""


def never() -> bool:
    return False


class CheckpointFolder:
    """The folder where one training keeps its last checkpoint.

    Args:
        folder: of the phase. Only the checkpoint of `key` is read; the first save removes all others.
        every_seconds: minimum time between two saves; more if a save takes long, unless it is 0.
        stop: called after each step. When it returns True, training saves and raises Stopped. For a single rank only.
    """

    def __init__(self, folder: Path, key: str, every_seconds: float, stop: Callable[[], bool] = never):
        self.folder, self.key = folder, key
        self.path = folder / f"{key}.safetensors"
        self.every_seconds = every_seconds
        self.stop = stop

    def part(self, number: int) -> CheckpointFolder:
        """Where one of several trainings under the same key keeps its own checkpoint."""
        return CheckpointFolder(self.folder / f"part-{number}", self.key, self.every_seconds, self.stop)

    def save(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Replace the last checkpoint by this one. numbers: values that JSON can hold."""
        write_tensors(self.path, tensors, {"numbers": json.dumps(numbers, allow_nan=False)})
        for other in self.path.parent.iterdir():
            if other != self.path and other.is_file():
                other.unlink()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint, or None if there is none. A damaged one counts as none: training starts from scratch."""
        if not self.path.exists():
            return None
        try:
            return read_tensors(self.path), json.loads(read_metadata(self.path)["numbers"])
        except (UnigrecError, KeyError, ValueError) as error:
            if rank() == 0:
                print(f"checkpoint ignored, training starts again: {error}", file=sys.stderr, flush=True)
            return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: `optimizer.<parameter number>.<name>`."""
    return {
        f"optimizer.{number}.{name}": torch.as_tensor(value)
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore the optimizer's state from tensors that `optimizer_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
