"""The parts of the fused ranking: written by the stage `rank`, read from its folder or from a bundle, and checked.

    neighbours.safetensors   content float16 (N, D); the pairs that follow each other, as starts int64 (N + 1,),
                             items int32 (n,), weights float16 (n,); those of the same users, as together_starts, ...
    fusion.json              what ranks the items of a request, and the weights of the fused score and of a query

Shapes: N items, n counted pairs, D content dimensions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.core.blocks import all_finite, are_starts
from unigrec.core.models.ensemble import Teacher
from unigrec.core.retrieval.fused import Weights
from unigrec.core.retrieval.neighbours import Neighbours, Pairs
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.core.retrieval.search import SEARCH_WEIGHT
from unigrec.serving.networks import load_teacher

if TYPE_CHECKING:
    from pathlib import Path

PAIR_TYPES = {"starts": torch.int64, "items": torch.int32, "weights": torch.float16}
SCORED = 1000  # items that a network is tried on
TOGETHER = "together_"  # prefix of the second table of pairs; files of earlier versions lack it


class Fusion(NamedTuple):
    """What ranks the items where a request does not say, and the weights of the fused score and of a query."""

    by: RankBy
    weights: Weights
    search_weight: float = SEARCH_WEIGHT  # of a query next to the history; bundles of earlier versions lack it

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON, as `read_fusion` takes it."""
        return {"by": self.by, "weights": self.weights._asdict(), "search_weight": self.search_weight}


def read_fusion(path: Path) -> Fusion:
    """Raises UnigrecError when the file is none that `Fusion.as_dict` gave; further keys are ignored."""
    values = files.read_json(path)
    try:
        weights = values["weights"]
        near = {name: float(weights[name]) for name in Weights._fields[1:] if name in weights}
        search_weight = float(values.get("search_weight", SEARCH_WEIGHT))
        fused = Weights(_generative_weight(weights["generative"]), **near)
        fusion = Fusion(RankBy(values["by"]), fused, search_weight)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UnigrecError(f"{path}: no weights of a fused ranking: {error!r}") from error
    if not (fusion.weights.of_features().isfinite().all() and 0.0 <= fusion.search_weight < math.inf):
        raise UnigrecError(
            f"{path}: weights that are not finite, or below 0 for a search: {weights}, {fusion.search_weight}"
        )
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
    tables = (("", neighbours.successors), (TOGETHER, neighbours.together))
    tensors = {"content": neighbours.content.half()}
    for prefix, table in tables:
        tensors |= {prefix + name: getattr(table, name).to(dtype) for name, dtype in PAIR_TYPES.items()}
    files.write_tensors(path, tensors)


def read_neighbours(path: Path, items: int, as_stored: bool = False, checked: bool = False) -> Neighbours:
    """Raises UnigrecError unless the file holds the neighbours of that many items.

    as_stored: leave them in the file, whose hash the caller has compared, in its short types. checked: the same file
    was read before, and its values are not looked at again.
    """
    tensors = files.read_tensors(path, verified=as_stored)
    earlier = not any(name.startswith(TOGETHER) for name in tensors)
    prefixes = ("",) if earlier else ("", TOGETHER)
    expected = {prefix + name: dtype for prefix in prefixes for name, dtype in PAIR_TYPES.items()}
    expected["content"] = torch.float16
    found = {name: tensors[name].dtype for name in expected if name in tensors}
    if found != expected:
        raise UnigrecError(f"{path}: expected tensors {expected}, found {found}")
    content = tensors["content"]
    if content.dim() != 2 or len(content) != items:
        raise UnigrecError(f"{path}: the neighbours are not those of {items} items")
    if not checked and not all_finite(content):
        raise UnigrecError(f"{path}: numbers that are not finite")
    successors, *rest = (_read_pairs(path, tensors, items, prefix, as_stored, checked) for prefix in prefixes)
    together = rest[0] if rest else Pairs.none(items)
    return Neighbours(successors, together, content if as_stored else content.float())


def _read_pairs(
    path: Path, tensors: dict[str, torch.Tensor], items: int, prefix: str, as_stored: bool, checked: bool
) -> Pairs:
    starts, others, weights = (tensors[prefix + name] for name in PAIR_TYPES)
    shapes = starts.shape == (items + 1,) and others.dim() == 1 and others.shape == weights.shape
    if not shapes or not (checked or are_starts(starts, items, len(others))):
        raise UnigrecError(f"{path}: the neighbours are not those of {items} items")
    if not checked and len(others) and not 0 <= int(others.min()) <= int(others.max()) < items:
        raise UnigrecError(f"{path}: neighbours outside of the catalogue of {items} items")
    if not checked and not all_finite(weights):
        raise UnigrecError(f"{path}: numbers that are not finite")
    return Pairs(starts, others, weights) if as_stored else Pairs(starts, others.long(), weights.float())


def read_dense(weights: Path, config: Path, items: int, checked: bool = False) -> Teacher:
    """The dense part; the caller has compared the files' hashes. checked: as in `read_neighbours`.

    Raises UnigrecError when a file is broken, or the model is one of another catalogue.
    """
    model = load_teacher(weights, config, verified=True, checked=checked)
    if len(model.item_vectors()) != items:
        raise UnigrecError(f"{weights}: scores {len(model.item_vectors())} items, but the catalogue has {items}")
    # Weights fit shapes that do not compute: heads that do not divide the width, a history of no item.
    try:
        with torch.inference_mode():
            longest = torch.zeros(1, model.history, dtype=torch.int64)
            scores = model.scores_of(longest, torch.tensor([model.history]), torch.arange(min(items, SCORED)))
    except (RuntimeError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise UnigrecError(f"{weights}: {config.name} has a shape that cannot score: {error}") from error
    if not scores.isfinite().all():
        raise UnigrecError(f"{weights}: scores that are not finite")
    return model
