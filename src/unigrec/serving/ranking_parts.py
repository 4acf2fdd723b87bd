"""The parts of the fused ranking: written by the stage `rank`, read from its folder or from a bundle, and checked.

    neighbours.safetensors   starts int64 (N + 1,), items int32 (n,), weights float16 (n,), content float16 (N, D)
    fusion.json              what ranks the items of a request, and the weights of the fused score

Shapes: N items, n counted pairs, D content dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.core.models.ensemble import Teacher
from unigrec.core.retrieval.fused import Weights
from unigrec.core.retrieval.neighbours import Neighbours
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.serving.networks import load_teacher

if TYPE_CHECKING:
    from pathlib import Path

NEIGHBOUR_TYPES = {
    "starts": torch.int64,
    "items": torch.int32,
    "weights": torch.float16,
    "content": torch.float16,
}


class Fusion(NamedTuple):
    """What ranks the items where a request does not say, and the weights of the fused score."""

    by: RankBy
    weights: Weights

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON, as `read_fusion` takes it."""
        return {"by": self.by, "weights": self.weights._asdict()}


def read_fusion(path: Path) -> Fusion:
    """Raises UnigrecError when the file is none that `Fusion.as_dict` gave; further keys are ignored."""
    values = files.read_json(path)
    try:
        weights = values["weights"]
        follows, alike = (float(weights[name]) for name in ("follows", "alike"))
        fusion = Fusion(RankBy(values["by"]), Weights(_generative_weight(weights["generative"]), follows, alike))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UnigrecError(f"{path}: no weights of a fused ranking: {error!r}") from error
    if not fusion.weights.of_features().isfinite().all():
        raise UnigrecError(f"{path}: weights that are not finite: {weights}")
    return fusion


def _generative_weight(value: Any) -> float:
    """Earlier versions wrote the weight three times: per third of the catalogue by popularity."""
    if not isinstance(value, list):
        return float(value)
    lowest, middle, highest = map(float, value)
    if not lowest == middle == highest:
        raise ValueError(f"three generative weights that differ: {value}")
    return lowest


def write_neighbours(path: Path, neighbours: Neighbours) -> None:
    tensors = {name: getattr(neighbours, name).to(dtype) for name, dtype in NEIGHBOUR_TYPES.items()}
    files.write_tensors(path, tensors)


def read_neighbours(path: Path, items: int) -> Neighbours:
    """Raises UnigrecError unless the file holds the neighbours of that many items."""
    tensors = files.read_tensors(path)
    found = {name: tensors[name].dtype for name in NEIGHBOUR_TYPES if name in tensors}
    if found != NEIGHBOUR_TYPES:
        raise UnigrecError(f"{path}: expected tensors {NEIGHBOUR_TYPES}, found {found}")
    starts, others, weights, content = (tensors[name] for name in NEIGHBOUR_TYPES)
    shapes = starts.shape == (items + 1,) and others.dim() == 1 and others.shape == weights.shape
    whole = shapes and starts[0] == 0 and starts[-1] == len(others) and not (starts.diff() < 0).any()
    if not whole or content.dim() != 2 or len(content) != items:
        raise UnigrecError(f"{path}: the neighbours are not those of {items} items")
    if len(others) and not 0 <= int(others.min()) <= int(others.max()) < items:
        raise UnigrecError(f"{path}: neighbours outside of the catalogue of {items} items")
    if not (weights.isfinite().all() and content.isfinite().all()):
        raise UnigrecError(f"{path}: numbers that are not finite")
    return Neighbours(starts, others.long(), weights.float(), content.float())


def read_dense(weights: Path, config: Path, items: int) -> Teacher:
    """The dense part. Raises UnigrecError when a file is broken, or the model is one of another catalogue."""
    model = load_teacher(weights, config)
    if len(model.item_vectors()) != items:
        raise UnigrecError(f"{weights}: scores {len(model.item_vectors())} items, but the catalogue has {items}")
    # Weights fit shapes that do not compute: heads that do not divide the width, a history of no item.
    try:
        with torch.inference_mode():
            scores = model.scores(torch.zeros(1, model.history, dtype=torch.int64), torch.tensor([model.history]))
    except (RuntimeError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise UnigrecError(f"{weights}: {config.name} has a shape that cannot score: {error}") from error
    if not scores.isfinite().all():
        raise UnigrecError(f"{weights}: scores that are not finite")
    return model
