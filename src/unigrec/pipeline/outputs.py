"""What the stages leave in `artifacts/`: data and networks loaded as what they are, trained ones written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unigrec.base import files as a

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


def load_sequences(sequences: Path = a.SEQUENCES, catalogue: Path = a.CATALOGUE) -> Sequences:
    """What `prepare` wrote, as the arrays that training reads."""
    import numpy as np

    from unigrec.core.sequences import Sequences

    arrays = a.read_arrays(sequences)
    items = a.read_table(catalogue, ["item_index"]).num_rows
    return Sequences(arrays["items"].astype(np.int64), arrays["offsets"], items)


def load_embeddings() -> torch.Tensor:
    """Item embeddings (N, D)."""
    return a.read_tensors(a.EMBEDDINGS)["embedding"]


def load_item_ids() -> list[str]:
    """Of the catalogue, in its order."""
    return a.read_table(a.CATALOGUE, ["item_id"])["item_id"].to_pylist()


def load_item_vectors() -> torch.Tensor:
    """What the tokenizer reads (N, D): content, and beside it what it reads of the teacher."""
    import torch

    return torch.cat([load_embeddings(), a.read_tensors(a.TOKENIZER / a.COLLABORATIVE_FILE)["part"]], dim=1)


def load_codes(folder: Path = a.HARDEN) -> np.ndarray:
    """Hardened identifiers (N, T)."""
    return a.read_arrays(folder / a.IDENTIFIERS_FILE)["codes"].astype("int64")


def load_teacher(folder: Path = a.TEACHER) -> SASRec:
    """The trained teacher."""
    from unigrec.core.models.sasrec import SASRec

    return _load_weights(SASRec(**a.read_json(folder / a.MODEL_CONFIG_FILE)), folder)


def load_tokenizer(folder: Path = a.TOKENIZER) -> Tokenizer:
    """A trained tokenizer."""
    from unigrec.core.models.tokenizers.residual import Tokenizer

    return _load_weights(Tokenizer(**a.read_json(folder / a.MODEL_CONFIG_FILE)), folder)


def load_unified(folder: Path = a.JOINT) -> UnifiedModel:
    """The model of the joint phase."""
    from unigrec.core.models.recommender import Recommender, RecommenderConfig
    from unigrec.core.models.tokenizers.residual import Tokenizer
    from unigrec.core.models.unified import UnifiedModel

    config = a.read_json(folder / a.MODEL_CONFIG_FILE)
    recommender = Recommender(RecommenderConfig(**config["recommender"]))
    return _load_weights(UnifiedModel(Tokenizer(**config["tokenizer"]), recommender, config["teacher_dim"]), folder)


def load_recommender(folder: Path = a.FINETUNE) -> Recommender:
    """The finetuned recommender."""
    from unigrec.core.models.recommender import Recommender, RecommenderConfig

    config = RecommenderConfig(**a.read_json(folder / a.MODEL_CONFIG_FILE))
    return _load_weights(Recommender(config), folder)


def _load_weights(model: Any, folder: Path) -> Any:
    model.load_state_dict(a.read_tensors(folder / a.MODEL_FILE))
    return model.eval()


def save_identifiers(folder: Path, resolved: Resolved, report: dict[str, Any]) -> None:
    """Codes, and the health report last."""
    a.write_tensors(folder / a.IDENTIFIERS_FILE, {"codes": resolved.codes.astype("int32")})
    a.write_json(folder / a.HEALTH_FILE, report)


def save_trained(folder: Path, trained: Trained, config: dict[str, Any]) -> None:
    """Weights, the network's shape, curves, and last of all the closing figures."""
    last = trained.history[-1] if trained.history else {}
    best = max(
        (row["validation_ndcg_at_10"] for row in trained.history if "validation_ndcg_at_10" in row), default=None
    )
    metrics = {name: value for name, value in last.items() if not name.startswith("validation_")}
    a.write_tensors(folder / a.MODEL_FILE, trained.model.state_dict())
    a.write_json(folder / a.MODEL_CONFIG_FILE, config)
    a.write_json(folder / a.HISTORY_FILE, _alike(trained.history))
    a.write_json(folder / a.METRICS_FILE, metrics | ({} if best is None else {"best_validation_ndcg_at_10": best}))


def _alike(rows: list[dict[str, float]]) -> list[dict[str, float | None]]:
    """Every row with every key, null where it has none: DVC draws nothing of rows that differ in their keys."""
    keys = {key for row in rows for key in row}
    return [dict.fromkeys(keys) | row for row in rows]
