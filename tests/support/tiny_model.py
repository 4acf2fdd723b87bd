"""The artifacts of a tiny real model, written where the stages write them. Its weights are untrained.

The data decide which model is good: each user's test item is the first recommendation of the model of seed
`data_seed`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from support.project import PARAMS_FILE
from support.report_facts import MODELS, PROTOCOLS, tiny_facts
from unigrec.base import files, paths
from unigrec.base.paths import Artifacts
from unigrec.core.identifiers.collisions import Resolved, disambiguate
from unigrec.core.models.recommender import Recommender, RecommenderConfig
from unigrec.core.models.sasrec import SASRec
from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.core.retrieval.basket_counts import count_baskets
from unigrec.core.retrieval.fused import Weights
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.retrieval.neighbour_ranking import count_neighbours
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.pipeline.outputs import load_sequences
from unigrec.serving.assemble import assemble
from unigrec.serving.basket_file import write_baskets
from unigrec.serving.manifest import Serving
from unigrec.serving.ranking_parts import Fusion, write_neighbours

ITEMS, USERS, LEVELS, CODEWORDS = 12, 40, 2, 4
DAY = 86_400
HISTORY = 4  # number of items per user before the test item
SERVING = Serving(history=20, beam=30, text_columns=["title"], origin="folder: shop")
DENSE_SHAPE = {"items": ITEMS, "d_model": 8, "blocks": 1, "heads": 2, "history": 3, "dropout": 0.1}
DENSE_SHAPE |= {"filter_share": 0.5, "filter_components": 2, "repeat_bias": True}
WEIGHTS = Weights(0.5, follows=1.0, alike=0.5)
TOKENIZER_SHAPE = {"embedding_dim": 6, "code_dim": 4, "hidden": [8], "levels": LEVELS, "codebook_size": CODEWORDS}


def item_ids() -> list[str]:
    """Ids like those of shops: plain, with a comma, with a space, non-Latin."""
    return ["a,b", "two words", "квас", *(f"P{index}" for index in range(3, ITEMS))]


def tiny_codes(seed: int) -> Resolved:
    """Identifiers of the model of this seed."""
    return disambiguate(np.random.default_rng(seed).integers(0, CODEWORDS, (ITEMS, LEVELS)), np.zeros(ITEMS))


def tiny_recommender(seed: int) -> Recommender:
    """The model of this seed."""
    torch.manual_seed(seed)
    return Recommender(RecommenderConfig(8, 16, 2, 4, 1, 1, 0.1, LEVELS, CODEWORDS, tiny_codes(seed).disambiguation))


def tiny_dense(seed: int) -> SASRec:
    """The dense part of the model of this seed."""
    torch.manual_seed(seed)
    return SASRec(**DENSE_SHAPE)


def write_artifacts(seed: int, passed: bool, ranks: list[int] | None, data_seed: int, place: int = 1) -> None:
    """Write the artifacts of a run into the current folder. Requests are answered by the generative part.

    Args:
        ranks: (USERS,) ranks of the shipped model that the run reports. place: rank at which the model of seed
            `data_seed` recommends each user's test item.
    """
    recommender = tiny_recommender(seed)
    _write_model(Artifacts().finetune, recommender.state_dict(), recommender.config.to_dict())
    tokenizer = Tokenizer(**TOKENIZER_SHAPE).state_dict()
    joint = {f"tokenizer.{name}": value for name, value in tokenizer.items()}
    _write_model(Artifacts().joint, joint | {"history_to_code.bias": torch.zeros(4)}, {"tokenizer": TOKENIZER_SHAPE})
    _write_model(Artifacts().teacher, tiny_dense(seed).state_dict(), DENSE_SHAPE)
    for stage in (Artifacts().teacher, Artifacts().tokenizer):
        files.write_json(stage / paths.METRICS_FILE, {"loss": 1.0, "temperature": 0.25})
    files.write_tensors(Artifacts().tokenizer / paths.COLLABORATIVE_FILE, {"part": torch.zeros(ITEMS, 0)})
    files.write_json(
        Artifacts().tokenizer / paths.HEALTH_FILE, {"temperature": 0.25000001, "hit_rate_quantized": 0.125}
    )
    files.write_json(Artifacts().joint / paths.HISTORY_FILE, [{"step": step, "loss": 1.0 / step} for step in (1, 2, 3)])
    files.write_tensors(Artifacts().harden / paths.IDENTIFIERS_FILE, {"codes": tiny_codes(seed).codes.astype(np.int32)})
    files.write_json(
        Artifacts().harden / paths.HEALTH_FILE, {"collision_rate": 0.5, "codebook_utilisation": [1.0, 0.5]}
    )
    files.write_json(Artifacts().text_encoder / "settings.json", {"encoder": "tfidf-svd"})
    files.write_json(Artifacts().report / paths.FACTS_FILE, tiny_facts())
    write_data(data_seed, place)
    _write_ranking(seed)
    _write_evaluation(passed, ranks or [1, 2, 3, 0, 5] * (USERS // 5))


def make_bundle(
    seed: int = 0, passed: bool = True, ranks: list[int] | None = None, data_seed: int = 0, place: int = 1
) -> Path:
    """Write artifacts and bundle them; returns the absolute path of the bundle."""
    write_artifacts(seed, passed, ranks, data_seed, place)
    return assemble(PARAMS_FILE, SERVING).absolute()


def bundle_in(folder: Path, seed: int = 0, ranks: list[int] | None = None) -> Path:
    """Run `make_bundle` in the folder."""
    with contextlib.chdir(folder):
        return make_bundle(seed, ranks=ranks)


def _write_model(folder: Path, weights: dict[str, torch.Tensor], config: dict) -> None:
    files.write_tensors(folder / paths.MODEL_FILE, weights)
    files.write_json(folder / paths.MODEL_CONFIG_FILE, config)
    files.write_json(folder / paths.METRICS_FILE, {"loss": 1.0})


def write_data(data_seed: int, place: int = 1, until: int = 1_700_000_000) -> None:
    """Write the outputs of `prepare`. until: unix seconds of the last interaction."""
    catalogue = {
        "item_index": pa.array(range(ITEMS), pa.int32()),
        "item_id": item_ids(),
        "title": [f"title {index}" if index else None for index in range(ITEMS)],
        "train_count": pa.array(range(ITEMS), pa.int32()),
    }
    files.write_table(Artifacts().catalogue, pa.table(catalogue))
    served = {
        "item_id": item_ids(),
        "brand": ["Canon", "HP", None, *["Canon"] * (ITEMS - 3)],
        "tags": [[f"tag {index % 4}", "all"] for index in range(ITEMS)],
        "price": [float(index) for index in range(ITEMS)],
        "first_seen": pa.array([until - DAY * index for index in range(ITEMS)], pa.timestamp("s")),
    }
    files.write_table(Artifacts().served_columns, pa.table(served))
    generator = np.random.default_rng(data_seed)
    before = generator.integers(0, ITEMS, (USERS, HISTORY))
    codes = tiny_codes(data_seed).codes
    student = GenerativeRetriever.hardened(tiny_recommender(data_seed), codes, HISTORY, beam=ITEMS)
    (found,) = student.search(before, np.full(USERS, HISTORY))
    items = np.concatenate([before, found.items[:, place - 1 : place].numpy()], 1).ravel().astype(np.int32)
    timestamps = until - np.arange(len(items))[::-1]
    files.write_tensors(
        Artifacts().sequences,
        {"items": items, "offsets": np.arange(USERS + 1) * (HISTORY + 1), "timestamps": timestamps.copy()},
    )
    rows = tiny_rows()
    files.write_json(Artifacts().prepare_stats, {"before": rows, "after": rows})
    files.write_json(Artifacts().source, {"source": "test"})
    files.write_json(Artifacts().validated, {"rows": rows, "sha256": {}})


def tiny_rows() -> dict[str, int]:
    """Numbers of users, items and interactions."""
    return {"users": USERS, "items": ITEMS, "interactions": USERS * (HISTORY + 1)}


def _write_ranking(seed: int) -> None:
    content = torch.randn(ITEMS, 5, generator=torch.Generator().manual_seed(seed))
    write_neighbours(Artifacts().rank / paths.NEIGHBOURS_FILE, count_neighbours(load_sequences(Artifacts()), content))
    write_baskets(Artifacts().rank / paths.BASKETS_FILE, count_baskets(load_sequences(Artifacts())))
    files.write_json(Artifacts().rank / paths.FUSION_FILE, Fusion(RankBy.GENERATIVE, WEIGHTS).as_dict())


def _write_evaluation(passed: bool, ranks: list[int]) -> None:
    found = {"recall_at_10": 0.5, "ndcg_at_10": 0.25}
    files.write_json(Artifacts().evaluate / paths.METRICS_FILE, {m: dict.fromkeys(PROTOCOLS, found) for m in MODELS})
    table = {"user_index": range(USERS), "item_index": [0] * USERS}
    table |= {"shipped_unmasked": ranks, "shipped_masked": ranks}
    files.write_table(
        Artifacts().evaluate / paths.RANKS_FILE, pa.table({name: list(values) for name, values in table.items()})
    )
    interval = {"difference": 0.05, "low": 0.01, "high": 0.09, "p_not_better": 0.0}
    files.write_json(Artifacts().evaluate / paths.AGAINST_FILE, {"unmasked": {"teacher": interval}})
    row = {"slice": "cold target: unseen in training", "users": 3, "model": "shipped", "protocol": "masked"}
    files.write_json(Artifacts().evaluate / paths.SLICES_FILE, [row | found])
    gate = {"name": "ndcg_at_10", "value": 0.25, "threshold": 0.1, "passed": passed, "reason": "a | reason"}
    files.write_json(Artifacts().decision, {"passed": passed, "gates": [gate]})
