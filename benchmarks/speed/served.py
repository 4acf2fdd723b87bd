"""Inputs of the decoding benchmarks: an untrained recommender of the paper's size, identifiers, and a bundle."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.speed.harness import ROOT
from benchmarks.speed.shapes import params_of
from unigrec.base import files, paths
from unigrec.base.paths import Artifacts
from unigrec.config.schema import Params
from unigrec.core.identifiers.collisions import Resolved, disambiguate
from unigrec.core.models.ensemble import build_teacher
from unigrec.core.models.recommender import Recommender
from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.core.retrieval.baskets import Baskets
from unigrec.core.retrieval.fused import Weights
from unigrec.core.retrieval.neighbours import Neighbours, Pairs
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.core.training.joint import recommender_config
from unigrec.core.training.teacher import teacher_config
from unigrec.core.training.tokenizer import new_tokenizer
from unigrec.serving.assemble import assemble
from unigrec.serving.basket_file import write_baskets
from unigrec.serving.manifest import Serving
from unigrec.serving.ranking_parts import Fusion, write_neighbours

SPREAD = 0.5  # std of log codeword frequency: entropy 7.8 of 8 bits, near the published one
SUCCESSORS = 8  # counted per item
DIMENSIONS = 128  # of content
AT_ONCE = 2**20  # items that are drawn at a time
BRANDS, DAY = 1000, 86_400
VOCABULARY, TITLE_WORDS = 20_000, 9  # words are drawn by Zipf's law
UNTRAINED = "Weights are random, not trained. The codes of an item are random too, level by level."


def serving_params(quick: bool) -> Params:
    """The paper's profile. quick: with a tiny network."""
    params = params_of("paper")
    if not quick:
        return params
    tiny = {"d_model": 16, "d_ff": 32, "heads": 2, "d_kv": 8, "encoder_layers": 1, "decoder_layers": 1}
    recommender = params.joint.recommender.model_copy(update=tiny)
    joint = params.joint.model_copy(update={"recommender": recommender})
    tokenizer = params.tokenizer.model_copy(update={"codebook_size": 16, "hidden": (16,), "code_dim": 8})
    return params.model_copy(update={"joint": joint, "tokenizer": tokenizer})


def shipped_params(quick: bool, **changes: Any) -> Params:
    """The same sizes, with a recommender of the kind that the other profiles train, and not the published one."""
    params, ours = serving_params(quick), params_of("small").joint.recommender
    kind = ours.model_dump(include={"causal", "repeat_bias", "merge", "item_vectors", "decoder"}) | changes
    recommender = params.joint.recommender.model_copy(update=kind)
    return params.model_copy(update={"joint": params.joint.model_copy(update={"recommender": recommender})})


def drawn_identifiers(items: int, params: Params, seed: int = 0) -> Resolved:
    """A random identifier per item, with some codewords more frequent than others. Collisions are disambiguated."""
    generator = np.random.default_rng(seed)
    levels = []
    for _ in range(params.tokenizer.levels):
        weight = np.exp(SPREAD * generator.standard_normal(params.tokenizer.codebook_size))
        levels.append(generator.choice(len(weight), items, p=weight / weight.sum()))
    return disambiguate(np.stack(levels, axis=1), np.zeros(items))


def untrained_recommender(params: Params, disambiguation: int) -> Recommender:
    config = recommender_config(new_tokenizer(DIMENSIONS, params.tokenizer), params.joint.recommender, disambiguation)
    torch.manual_seed(0)
    return Recommender(config).eval().requires_grad_(False)


def item_id(index: int) -> str:
    """An id of ten letters and digits, like those of a shop."""
    return f"B{index:09d}"


def write_bundle(folder: Path, items: int, params: Params) -> Path:
    """Write the artifacts of an untrained model into `folder` as the stages do, and bundle them; returns its path."""
    identifiers = drawn_identifiers(items, params)
    recommender = untrained_recommender(params, identifiers.disambiguation)
    shape = {"embedding_dim": DIMENSIONS, **params.tokenizer.model_dump(include={"code_dim", "hidden", "levels"})}
    shape["codebook_size"] = params.tokenizer.codebook_size
    tokenizer = Tokenizer(**shape)
    numbers, ids = np.arange(items, dtype=np.int32), pa.array(map(item_id, range(items)), pa.string(), size=items)
    catalogue: dict[str, Any] = {
        "item_index": numbers,
        "item_id": ids,
        "title": titles(items),
        "train_count": numbers % 100,
    }
    with chdir(folder):
        files.write_tensors(Artifacts().finetune / paths.MODEL_FILE, recommender.state_dict())
        files.write_json(Artifacts().finetune / paths.MODEL_CONFIG_FILE, recommender.config.to_dict())
        if recommender.config.vector_width:
            tokens = torch.randn(items, recommender.config.tokens_per_item, recommender.config.d_model)
            files.write_tensors(Artifacts().finetune / paths.ITEM_TOKENS_FILE, {"tokens": tokens})
        weights = {f"tokenizer.{name}": value for name, value in tokenizer.state_dict().items()}
        files.write_tensors(Artifacts().joint / paths.MODEL_FILE, weights)
        files.write_json(Artifacts().joint / paths.MODEL_CONFIG_FILE, {"tokenizer": shape})
        files.write_tensors(Artifacts().harden / paths.IDENTIFIERS_FILE, {"codes": identifiers.codes.astype(np.int32)})
        files.write_table(Artifacts().catalogue, pa.table(catalogue))
        files.write_table(Artifacts().served_columns, _served_columns(ids))
        _write_ranking(items, DIMENSIONS, params)
        _write_encoder(DIMENSIONS)
        files.write_tensors(Artifacts().tokenizer / paths.COLLABORATIVE_FILE, {"part": torch.zeros(items, 0)})
        _write_reports()
        serving = Serving(params.joint.history, params.evaluate.beam, ["title"], "drawn for a benchmark")
        return assemble(ROOT / "params.yaml", serving).absolute()


def words() -> list[str]:
    """Different words of letters."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    generator = np.random.default_rng(2)
    return ["".join(letters[generator.integers(0, 26, 5)]) + str(number) for number in range(VOCABULARY)]


def titles(items: int) -> pa.ChunkedArray:
    """A title of about 70 letters per item."""
    generator, vocabulary = np.random.default_rng(3), np.array(words())
    shares = 1.0 / np.arange(1, VOCABULARY + 1)
    parts = []
    for start in range(0, items, AT_ONCE):
        drawn = generator.choice(VOCABULARY, (min(AT_ONCE, items - start), TITLE_WORDS), p=shares / shares.sum())
        parts.append(pa.array([" ".join(row) for row in vocabulary[drawn]]))
    return pa.chunked_array(parts)


def _write_encoder(dimensions: int) -> None:
    """Write a text encoder of tfidf-svd whose directions are random."""
    generator = np.random.default_rng(4)
    components = generator.standard_normal((VOCABULARY, dimensions), dtype=np.float32)
    settings = {"encoder": "tfidf-svd", "text_columns": ["title"], "modalities": [], "scales": [1.0], "notes": []}
    files.write_json(Artifacts().text_encoder / "settings.json", settings | {"dimensions": dimensions})
    files.write_json(Artifacts().text_encoder / "vocabulary.json", words())
    files.write_tensors(
        Artifacts().text_encoder / "encoder.safetensors",
        {
            "idf": np.ones(VOCABULARY, np.float32),
            "components": components,
            "centre_0": np.zeros(dimensions, np.float32),
        },
    )


def _served_columns(item_ids: pa.Array) -> pa.Table:
    """A brand of a thousand, a price up to 100, and a first day in the last three years."""
    generator = np.random.default_rng(1)
    brands = np.array([f"brand {number}" for number in range(BRANDS)])
    return pa.table(
        {
            "item_id": item_ids,
            "brand": brands[generator.integers(0, BRANDS, len(item_ids))],
            "price": 100.0 * generator.random(len(item_ids)),
            "first_seen": pa.array(-DAY * generator.integers(0, 3 * 365, len(item_ids)), pa.timestamp("s")),
        }
    )


def _write_ranking(items: int, content_dim: int, params: Params) -> None:
    """Write the other parts of the fused ranking. Requests that do not say are answered by the generative part."""
    config = teacher_config(items, params.teacher)
    files.write_tensors(Artifacts().teacher / paths.MODEL_FILE, build_teacher(config).state_dict())
    files.write_json(Artifacts().teacher / paths.MODEL_CONFIG_FILE, config)
    following = torch.randint(items, (items * SUCCESSORS,))
    blocks = [torch.randn(min(AT_ONCE, items - start), content_dim) for start in range(0, items, AT_ONCE)]
    content = torch.cat([torch.nn.functional.normalize(block, dim=1).half() for block in blocks])
    starts = torch.arange(items + 1) * SUCCESSORS
    # Tensors of a file share no memory.
    successors, together = (Pairs(starts.clone(), following.clone(), torch.rand(len(following))) for _ in range(2))
    write_neighbours(Artifacts().rank / paths.NEIGHBOURS_FILE, Neighbours(successors, together, content))
    ones = np.ones(len(following), np.int64)
    baskets = Baskets(starts.numpy(), following.numpy(), ones, np.full(items, SUCCESSORS), items, by_day=True)
    write_baskets(Artifacts().rank / paths.BASKETS_FILE, baskets)
    fusion = Fusion(RankBy.GENERATIVE, Weights(0.5, 1.0, 1.0, 1.0, 1.0, 1.0))
    files.write_json(Artifacts().rank / paths.FUSION_FILE, fusion.as_dict())


def _write_reports() -> None:
    """Write the other files that a bundle needs, almost empty."""
    nothing: dict[str, Any] = {"student": {}, "passed": False, "gates": [], "rows": {}}
    for path in (
        Artifacts().evaluate / paths.METRICS_FILE,
        Artifacts().decision,
        Artifacts().validated,
        Artifacts().source,
    ):
        files.write_json(path, nothing)
    for stage in (Artifacts().teacher, Artifacts().tokenizer, Artifacts().folder("report")):
        files.write_json(stage / paths.METRICS_FILE, nothing)
    files.write_table(Artifacts().evaluate / paths.RANKS_FILE, pa.table({"user_index": [0]}))
    one: dict[str, np.ndarray] = {"items": np.zeros(1, np.int32), "timestamps": np.zeros(1, np.int64)}
    files.write_tensors(Artifacts().sequences, one)
