"""A tiny bundle whose items have titles, and whose text encoder is fitted to them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pyarrow as pa
import torch

from support.project import PARAMS_FILE
from support.tiny_model import SERVING, TOKENIZER_SHAPE, item_ids, write_artifacts
from unigrec.base import files, paths
from unigrec.base.paths import Artifacts
from unigrec.config.schema import EmbedParams
from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.core.retrieval.neighbour_ranking import count_neighbours
from unigrec.embedding.encoder import fit_encoder, save_encoder
from unigrec.pipeline.outputs import load_sequences
from unigrec.serving.assemble import assemble
from unigrec.serving.bundle import Bundle
from unigrec.serving.ranking_parts import write_neighbours

NAMES = item_ids()
KINDS = ["laser printer", "ink cartridge", "garden hose"]
COLOURS = ["black", "blue", "café", "red"]
TITLES = [f"{kind} {colour}" for kind in KINDS for colour in COLOURS]
DIMENSIONS = 6


def bundle_of(folder: Path) -> Bundle:
    with contextlib.chdir(folder):
        write_artifacts(0, True, None, 0)
        catalogue = files.read_table(Artifacts().catalogue)
        files.write_table(Artifacts().catalogue, catalogue.set_column(2, "title", pa.array(TITLES)))
        params = EmbedParams(
            encoder="tfidf-svd",
            model="",
            text_columns=("title",),
            dimensions=DIMENSIONS,
            max_features=50,
            modalities=(),
        )
        encoder, embedding = fit_encoder(pa.table({"item_id": NAMES, "title": TITLES}), params, seed=0)
        save_encoder(encoder, Artifacts().text_encoder)
        neighbours = count_neighbours(load_sequences(Artifacts()), torch.from_numpy(embedding))
        write_neighbours(Artifacts().rank / paths.NEIGHBOURS_FILE, neighbours)
        tokenizer = Tokenizer(**TOKENIZER_SHAPE)
        joint = {f"tokenizer.{name}": value for name, value in tokenizer.state_dict().items()}
        files.write_tensors(Artifacts().joint / paths.MODEL_FILE, joint)
        return Bundle.load(assemble(PARAMS_FILE, SERVING).absolute())
