"""The stages' outputs as objects: data and networks are loaded, trained networks, identifiers and ranks are written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.core.evaluation.protocol import SELECTED

if TYPE_CHECKING:
    import numpy as np
    import torch

    from unigrec.base.paths import Artifacts
    from unigrec.core.evaluation.baselines import Ranks
    from unigrec.core.identifiers.collisions import Resolved
    from unigrec.core.models.ensemble import Teacher
    from unigrec.core.models.recommender import Recommender
    from unigrec.core.models.tokenizers.residual import Tokenizer
    from unigrec.core.models.unified import UnifiedModel
    from unigrec.core.models.vectors import ItemVectors
    from unigrec.core.retrieval.neighbours import Neighbours
    from unigrec.core.sequences import Sequences
    from unigrec.core.training.loop import Trained
    from unigrec.serving.ranking_parts import Fusion


def load_sequences(artifacts: Artifacts) -> Sequences:
    """The users' sequences that `prepare` wrote, mapped."""
    from unigrec.core.sequences import Sequences

    arrays = files.map_arrays(artifacts.sequences)
    items = files.read_table(artifacts.catalogue, ["item_index"]).num_rows
    return Sequences(
        arrays["items"],
        arrays["offsets"],
        items,
        timestamps=arrays["timestamps"],
        weights=arrays.get("weights"),
        validation=arrays.get("validation"),
    )


def load_embeddings(artifacts: Artifacts) -> torch.Tensor:
    """Item embeddings (N, D), mapped."""
    return files.read_tensors(artifacts.embeddings)["embedding"]


def load_widths(artifacts: Artifacts) -> list[int]:
    """Widths of the modalities of an item embedding, in their order; empty if an earlier version wrote it."""
    if not artifacts.modalities.is_file():
        return []
    return [int(row["width"]) for row in files.read_json(artifacts.modalities)]


def load_item_ids(artifacts: Artifacts) -> list[str]:
    """Item ids in catalogue order."""
    return files.read_table(artifacts.catalogue, ["item_id"])["item_id"].to_pylist()


def load_item_vectors(artifacts: Artifacts) -> ItemVectors:
    """What the tokenizer reads (N, D + E): the item embeddings, then its part of the teacher, both mapped."""
    from unigrec.core.models.vectors import ItemVectors

    part = files.read_tensors(artifacts.tokenizer / paths.COLLABORATIVE_FILE)["part"]
    return ItemVectors([load_embeddings(artifacts), part])


def load_codes(artifacts: Artifacts) -> np.ndarray:
    """Hardened identifiers (N, T)."""
    return files.read_arrays(artifacts.harden / paths.IDENTIFIERS_FILE)["codes"].astype("int64")


def load_teacher(artifacts: Artifacts) -> Teacher:
    """The trained teacher."""
    from unigrec.serving.networks import load_teacher as load

    folder = artifacts.teacher
    return load(folder / paths.MODEL_FILE, folder / paths.MODEL_CONFIG_FILE)


def load_neighbours(artifacts: Artifacts) -> Neighbours:
    """Successors and content of every item."""
    from unigrec.serving.ranking_parts import read_neighbours

    items = files.read_table(artifacts.catalogue, ["item_index"]).num_rows
    return read_neighbours(artifacts.rank / paths.NEIGHBOURS_FILE, items)


def load_fusion(artifacts: Artifacts) -> Fusion:
    """What ranks the items, and the weights of the fused score."""
    from unigrec.serving.ranking_parts import read_fusion

    return read_fusion(artifacts.rank / paths.FUSION_FILE)


def load_tokenizer(artifacts: Artifacts) -> Tokenizer:
    """The pre-trained tokenizer."""
    from unigrec.serving import networks

    folder = artifacts.tokenizer
    return networks.load_tokenizer(folder / paths.MODEL_FILE, folder / paths.MODEL_CONFIG_FILE)


def load_unified(artifacts: Artifacts) -> UnifiedModel:
    """The model of the joint phase."""
    from unigrec.core.models.recommender import Recommender, RecommenderConfig
    from unigrec.core.models.tokenizers.residual import Tokenizer
    from unigrec.core.models.unified import UnifiedModel
    from unigrec.serving.networks import load_network

    def build(config: dict[str, Any]) -> UnifiedModel:
        recommender = Recommender(RecommenderConfig(**config["recommender"]))
        return UnifiedModel(Tokenizer(**config["tokenizer"]), recommender, config["teacher_dim"])

    folder = artifacts.joint
    return load_network(build, folder / paths.MODEL_FILE, folder / paths.MODEL_CONFIG_FILE)


def load_temperature(artifacts: Artifacts) -> float:
    """The temperature of the soft identifiers in the epoch whose weights the joint phase kept. Raises UnigrecError."""
    file = artifacts.joint / paths.MODEL_CONFIG_FILE
    config = files.read_json(file)
    if "temperature" not in config:
        raise UnigrecError(f"{file}: no temperature in it: an earlier version wrote it; run the stage joint again")
    return config["temperature"]


def load_recommender(artifacts: Artifacts) -> Recommender:
    """The finetuned recommender."""
    from unigrec.serving import networks

    folder = artifacts.finetune
    return networks.load_recommender(folder / paths.MODEL_FILE, folder / paths.MODEL_CONFIG_FILE)


def load_item_tokens(artifacts: Artifacts, recommender: Recommender) -> torch.Tensor | None:
    """What the finetuned recommender reads of each item, (N, L or 1, E), mapped; None if it reads codes alone."""
    if not recommender.config.vector_width:
        return None
    return files.read_tensors(artifacts.finetune / paths.ITEM_TOKENS_FILE)["tokens"]


def data_warnings(artifacts: Artifacts) -> list[str]:
    """Sentences that reading and preparing wrote about data that may not mean what it seems to."""
    found = (files.read_json(path).get("warnings", []) for path in (artifacts.source, artifacts.prepare_stats))
    return list(dict.fromkeys(warning for warnings in found for warning in warnings))


def save_identifiers(folder: Path, resolved: Resolved, report: dict[str, Any]) -> None:
    """Write the codes, and the health report last."""
    files.write_tensors(folder / paths.IDENTIFIERS_FILE, {"codes": resolved.codes.astype("int32")})
    files.write_json(folder / paths.HEALTH_FILE, report)


def save_finetuned(folder: Path, trained: Trained, codes: np.ndarray, vectors: ItemVectors | None) -> None:
    """As `save_trained`, and what the recommender reads of each item if it reads more than codes.

    codes: (N, T). vectors: (N, vector_width), or None.
    """
    import torch

    from unigrec.core.training.student_validation import hard_tokens

    model: Any = trained.model
    file = folder / paths.ITEM_TOKENS_FILE
    file.unlink(missing_ok=True)  # at no time do tokens lie beside weights that they were not made with
    save_trained(folder, trained, model.config.to_dict())
    if vectors is not None:
        files.write_tensors(file, {"tokens": hard_tokens(model.cpu(), torch.as_tensor(codes), vectors)})


def save_ranks(
    folder: Path,
    sequences: Sequences,
    users: np.ndarray,
    ranks: Ranks,
    cutoffs: tuple[int, ...],
    columns: dict[str, list[set[str]]],
) -> None:
    """The ranks of the users' test items, by slice too, and the metrics last. users, and each model's ranks: (U,).

    columns: as `slices` takes them.
    """
    import pyarrow as pa

    from unigrec.core.evaluation.metrics import ranking_metrics
    from unigrec.core.evaluation.slices import metrics_by_slice, slices

    metrics: dict[str, Any] = {}
    table: dict[str, Any] = {"user_index": users, "item_index": sequences.held_out(users, "test", 1).targets}
    for (model, protocol), found in ranks.items():
        metrics.setdefault(model, {})[protocol] = ranking_metrics(found, cutoffs)
        table[f"{model}_{protocol}"] = found
    files.write_table(folder / paths.RANKS_FILE, pa.table(table))
    files.write_json(folder / paths.SLICES_FILE, metrics_by_slice(ranks, slices(sequences, users, columns)))
    files.write_json(folder / paths.METRICS_FILE, metrics)


def save_trained(folder: Path, trained: Trained, config: dict[str, Any]) -> None:
    """Weights, the network's config, curves, and last the figures of the epoch whose weights these are."""
    best = trained.kept.get(SELECTED)
    metrics = {name: value for name, value in trained.kept.items() if not name.startswith("validation_")}
    files.write_tensors(folder / paths.MODEL_FILE, trained.model.state_dict())
    files.write_json(folder / paths.MODEL_CONFIG_FILE, config)
    files.write_json(folder / paths.HISTORY_FILE, _alike(trained.history))
    files.write_json(folder / paths.METRICS_FILE, metrics | ({} if best is None else {f"best_{SELECTED}": best}))


def _alike(rows: list[dict[str, float]]) -> list[dict[str, float | None]]:
    """Rows with the same keys, null where a row has none: DVC does not draw rows that differ in their keys."""
    keys = {key for row in rows for key in row}
    return [dict.fromkeys(keys) | row for row in rows]
