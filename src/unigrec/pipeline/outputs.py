"""What the stages leave in `artifacts/`: data and networks loaded as what they are, trained ones written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unigrec.base import files, paths

if TYPE_CHECKING:
    import numpy as np
    import torch

    from unigrec.core.identifiers.collisions import Resolved
    from unigrec.core.models.recommender import Recommender
    from unigrec.core.models.sasrec import SASRec
    from unigrec.core.models.tokenizers.residual import Tokenizer
    from unigrec.core.models.unified import UnifiedModel
    from unigrec.core.sequences import Sequences
    from unigrec.core.training.loop import Trained


def load_sequences(sequences: Path = paths.SEQUENCES, catalogue: Path = paths.CATALOGUE) -> Sequences:
    """What `prepare` wrote, as the arrays that training reads."""
    import numpy as np

    from unigrec.core.sequences import Sequences

    arrays = files.read_arrays(sequences)
    items = files.read_table(catalogue, ["item_index"]).num_rows
    return Sequences(arrays["items"].astype(np.int64), arrays["offsets"], items)


def load_embeddings() -> torch.Tensor:
    """Item embeddings (N, D)."""
    return files.read_tensors(paths.EMBEDDINGS)["embedding"]


def load_item_ids() -> list[str]:
    """Of the catalogue, in its order."""
    return files.read_table(paths.CATALOGUE, ["item_id"])["item_id"].to_pylist()


def load_item_vectors() -> torch.Tensor:
    """What the tokenizer reads (N, D): content, and beside it what it reads of the teacher."""
    import torch

    return torch.cat([load_embeddings(), files.read_tensors(paths.TOKENIZER / paths.COLLABORATIVE_FILE)["part"]], dim=1)


def load_codes(folder: Path = paths.HARDEN) -> np.ndarray:
    """Hardened identifiers (N, T)."""
    return files.read_arrays(folder / paths.IDENTIFIERS_FILE)["codes"].astype("int64")


def load_teacher(folder: Path = paths.TEACHER) -> SASRec:
    """The trained teacher."""
    from unigrec.core.models.sasrec import SASRec

    return _load_weights(SASRec(**files.read_json(folder / paths.MODEL_CONFIG_FILE)), folder)


def load_tokenizer(folder: Path = paths.TOKENIZER) -> Tokenizer:
    """A trained tokenizer."""
    from unigrec.core.models.tokenizers.residual import Tokenizer

    return _load_weights(Tokenizer(**files.read_json(folder / paths.MODEL_CONFIG_FILE)), folder)


def load_unified(folder: Path = paths.JOINT) -> UnifiedModel:
    """The model of the joint phase."""
    from unigrec.core.models.recommender import Recommender, RecommenderConfig
    from unigrec.core.models.tokenizers.residual import Tokenizer
    from unigrec.core.models.unified import UnifiedModel

    config = files.read_json(folder / paths.MODEL_CONFIG_FILE)
    recommender = Recommender(RecommenderConfig(**config["recommender"]))
    return _load_weights(UnifiedModel(Tokenizer(**config["tokenizer"]), recommender, config["teacher_dim"]), folder)


def load_recommender(folder: Path = paths.FINETUNE) -> Recommender:
    """The finetuned recommender."""
    from unigrec.core.models.recommender import Recommender, RecommenderConfig

    config = RecommenderConfig(**files.read_json(folder / paths.MODEL_CONFIG_FILE))
    return _load_weights(Recommender(config), folder)


def _load_weights(model: Any, folder: Path) -> Any:
    model.load_state_dict(files.read_tensors(folder / paths.MODEL_FILE))
    return model.eval()


def save_identifiers(folder: Path, resolved: Resolved, report: dict[str, Any]) -> None:
    """Codes, and the health report last."""
    files.write_tensors(folder / paths.IDENTIFIERS_FILE, {"codes": resolved.codes.astype("int32")})
    files.write_json(folder / paths.HEALTH_FILE, report)


def save_trained(folder: Path, trained: Trained, config: dict[str, Any]) -> None:
    """Weights, the network's shape, curves, and last of all the closing figures."""
    last = trained.history[-1] if trained.history else {}
    best = max(
        (row["validation_ndcg_at_10"] for row in trained.history if "validation_ndcg_at_10" in row), default=None
    )
    metrics = {name: value for name, value in last.items() if not name.startswith("validation_")}
    files.write_tensors(folder / paths.MODEL_FILE, trained.model.state_dict())
    files.write_json(folder / paths.MODEL_CONFIG_FILE, config)
    files.write_json(folder / paths.HISTORY_FILE, _alike(trained.history))
    files.write_json(
        folder / paths.METRICS_FILE, metrics | ({} if best is None else {"best_validation_ndcg_at_10": best})
    )


def _alike(rows: list[dict[str, float]]) -> list[dict[str, float | None]]:
    """Every row with every key, null where it has none: DVC draws nothing of rows that differ in their keys."""
    keys = {key for row in rows for key in row}
    return [dict.fromkeys(keys) | row for row in rows]
