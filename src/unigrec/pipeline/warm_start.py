"""A warm start: training continues from a bundle, so that items keep most of their codes.

Four things decide an item's codes, and a bundle hands on all four: the encoder of the item's text, the part of the
teacher that the tokenizer read when the bundle was trained, the tokenizer, and how collisions were resolved. The
teacher itself is trained from scratch; a linear map puts new items into the old teacher's space (`continued_part`).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.core.identifiers.churn import known_codes, rows_of
from unigrec.serving import manifest as names
from unigrec.serving.manifest import open_bundle

if TYPE_CHECKING:
    import torch

    from unigrec.base.paths import Artifacts
    from unigrec.config.schema import EmbedParams, HardenParams, JointParams, TokenizerParams, WarmStartParams
    from unigrec.core.models.recommender import Recommender
    from unigrec.core.models.tokenizers.residual import Tokenizer

BUNDLE_FILE = "bundle.json"  # which bundle; null in a cold start
HANDED_ON = (
    *(names.TOKENIZER_CONFIG, names.TOKENIZER, names.RECOMMENDER_CONFIG, names.RECOMMENDER),
    *(names.IDENTIFIERS, names.CATALOGUE, names.COLLABORATIVE),
)
ENCODER = names.TEXT_ENCODER
COLD = "unigrec warm-start --cold"


class Known(NamedTuple):
    """The bundle's items, in its order."""

    item_ids: list[str]
    codes: np.ndarray  # (N, T) their identifiers
    collaborative: torch.Tensor  # (N, E) the tokenizer's part of the teacher; E is 0 if it reads content alone


def prepare_warm_start(path: Path, artifacts: Artifacts) -> None:
    """Write `artifacts/warm_start`: the parts of the bundle at `path`. A file as `path`: a cold start.

    Raises:
        UnigrecError: `path` does not exist, or the bundle is damaged or too old to start from.
    """
    if not path.exists():
        raise UnigrecError(
            f"{path}: no such bundle (warm_start.path); name one: unigrec warm-start, or start cold: {COLD}"
        )
    bundle = open_bundle(path) if path.is_dir() else None
    if bundle is not None and names.COLLABORATIVE not in bundle["files"]:
        raise UnigrecError(f"{path}: made before bundles could be started from; start cold: {COLD}")
    with files.atomic_folder(artifacts.warm_start) as folder:
        if bundle is not None:
            for name in HANDED_ON:
                shutil.copyfile(path / name, folder / name)
            shutil.copytree(path / ENCODER, folder / ENCODER)
        files.write_json(folder / BUNDLE_FILE, {"bundle": None if bundle is None else bundle["id"]})


def is_warm(artifacts: Artifacts) -> bool:
    """Whether this run starts from a bundle. Raises UnigrecError when the stage `warm_start` has not run."""
    return files.read_json(artifacts.warm_start / BUNDLE_FILE)["bundle"] is not None


def check_shapes(
    artifacts: Artifacts, embed: EmbedParams, tokenizer: TokenizerParams, joint: JointParams, harden: HardenParams
) -> None:
    """Raises UnigrecError if params ask for a model of another shape than the bundle's; it names each value."""
    encoder, ours, theirs = (
        files.read_json(artifacts.warm_start / ENCODER / "settings.json"),
        _asked(tokenizer, joint),
        _found(artifacts),
    )
    ours |= {"embed.encoder": embed.encoder, "embed.text_columns": list(embed.text_columns)}
    theirs |= {"embed.encoder": encoder["encoder"], "embed.text_columns": encoder["text_columns"]}
    ours["embed.modalities"], theirs["embed.modalities"] = list(embed.modalities), encoder["modalities"]
    ours["harden.resolution"] = harden.resolution
    if embed.encoder == "sentence-transformers":
        ours["embed.model"], theirs["embed.model"] = embed.model, encoder.get("model")
    different = [
        f"{name} is {theirs[name]} there, {value} in params" for name, value in ours.items() if theirs[name] != value
    ]
    if different:
        raise UnigrecError(
            f"the bundle to start from has another shape: {'; '.join(different)}. Set the params to what it has, or "
            f"start cold: {COLD}"
        )


def _asked(tokenizer: TokenizerParams, joint: JointParams) -> dict[str, Any]:
    wanted = {f"tokenizer.{name}": getattr(tokenizer, name) for name in ("code_dim", "levels", "codebook_size")}
    wanted["tokenizer.hidden"] = list(tokenizer.hidden)
    wanted["a collaborative part (tokenizer.collaborative_weight)"] = tokenizer.collaborative_weight > 0
    # Dropout has no weights. A recommender without a repeat bias goes on without it.
    shape = joint.recommender.model_dump(exclude={"dropout", "repeat_bias"})
    return wanted | {f"joint.recommender.{name}": value for name, value in shape.items()}


def _found(artifacts: Artifacts) -> dict[str, Any]:
    from unigrec.core.models.recommender import RecommenderConfig

    tokenizer = files.read_json(artifacts.warm_start / names.TOKENIZER_CONFIG)
    # A bundle of an earlier version lacks the keys that came later.
    config = RecommenderConfig(**files.read_json(artifacts.warm_start / names.RECOMMENDER_CONFIG))
    recommender = config.to_dict()
    found = {f"tokenizer.{name}": value for name, value in tokenizer.items()}
    found["a collaborative part (tokenizer.collaborative_weight)"] = load_known(artifacts).collaborative.shape[1] > 0
    found["harden.resolution"] = "disambiguate" if recommender["disambiguation"] else "reassign"
    recommender["item_vectors"] = recommender["vector_width"] > 0
    return found | {f"joint.recommender.{name}": value for name, value in recommender.items()}


def load_known(artifacts: Artifacts) -> Known:
    """Load the bundle's items."""
    return Known(
        files.read_table(artifacts.warm_start / names.CATALOGUE, ["item_id"])["item_id"].to_pylist(),
        files.read_arrays(artifacts.warm_start / names.IDENTIFIERS)["codes"].astype(np.int64),
        files.read_tensors(artifacts.warm_start / names.COLLABORATIVE)["part"],
    )


def earlier_identifiers(artifacts: Artifacts, item_ids: list[str]) -> np.ndarray | None:
    """(N, T) the bundle's identifiers of these items, -1 for items that it does not have; None in a cold start."""
    if not is_warm(artifacts):
        return None
    known = load_known(artifacts)
    return known_codes(item_ids, known.item_ids, known.codes)


def read_of_teacher(
    artifacts: Artifacts, content: torch.Tensor, teacher: torch.Tensor, weight: float, item_ids: list[str]
) -> torch.Tensor:
    """The tokenizer's part of the teacher, (N, E). Items of the bundle keep the part that they had in its training.

    content: (N, D). teacher: (N, E). weight: tokenizer.collaborative_weight.
    """
    import torch

    from unigrec.core.identifiers.item_vectors import collaborative_part, continued_part

    if weight == 0.0 or not is_warm(artifacts):
        return collaborative_part(content, teacher, weight)
    known = load_known(artifacts)
    rows = rows_of(item_ids, known.item_ids)
    return continued_part(teacher, known.collaborative[torch.as_tensor(rows)], rows >= 0)


def warm_joint(joint: JointParams, warm_start: WarmStartParams) -> JointParams:
    """Params of the joint phase in a warm start: fewer epochs, at lower learning rates."""
    rates = {name: warm_start.rate * getattr(joint, name) for name in ("recommender_lr", "tokenizer_lr")}
    return joint.model_copy(update={"epochs": warm_start.joint_epochs, **rates})


def started_tokenizer(artifacts: Artifacts) -> Tokenizer:
    """The bundle's tokenizer."""
    from unigrec.serving.networks import load_tokenizer

    folder = artifacts.warm_start
    return load_tokenizer(folder / names.TOKENIZER, folder / names.TOKENIZER_CONFIG)


def started_recommender(artifacts: Artifacts, dropout: float) -> Recommender:
    """The bundle's recommender, with the dropout that params ask for now."""
    from unigrec.serving.networks import load_recommender

    folder = artifacts.warm_start
    return load_recommender(folder / names.RECOMMENDER, folder / names.RECOMMENDER_CONFIG, dropout=dropout)
