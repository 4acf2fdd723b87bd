"""What the stage `rank` needs to fit the weight of a query: queries for validation items, and their scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from unigrec.base import files, paths
from unigrec.core.retrieval.search import SEARCH_WEIGHT, QueryScorer
from unigrec.core.retrieval.word_index import WordIndex
from unigrec.core.sequences import Sequences, sample
from unigrec.core.training.search_weight import fit_search_weight
from unigrec.embedding.encoder import load_encoder
from unigrec.embedding.words import words_in
from unigrec.pipeline.outputs import load_codes, load_unified
from unigrec.pipeline.queries import QueryKind, make_query
from unigrec.serving.search import catalogue_words

if TYPE_CHECKING:
    from unigrec.base.paths import Artifacts
    from unigrec.core.retrieval.retriever import Retriever

USERS = 200


def fitted_search_weight(
    artifacts: Artifacts,
    text_columns: tuple[str, ...],
    sequences: Sequences,
    retriever: Retriever,
    content: torch.Tensor,
    seed: int,
) -> float:
    """The weight of a query next to a history. content: (N, D) of length 1, or 0."""
    catalogue = files.read_table(artifacts.catalogue)
    items = catalogue.select([name for name in text_columns if name in catalogue.column_names])
    generator = np.random.default_rng(seed)
    held_out = sequences.held_out(sample(sequences.evaluation_users(), USERS, seed), "validation", retriever.history)
    queries: list[str] = []
    kept: list[int] = []
    for row, target in enumerate(held_out.targets.tolist()):
        (item,) = items.slice(target, 1).to_pylist()
        query = make_query(list(QueryKind)[row % len(QueryKind)], item, generator)
        if query is not None:
            queries.append(query)
            kept.append(row)
    if not queries:
        return SEARCH_WEIGHT
    encoder = load_encoder(artifacts.text_encoder)
    part = files.read_tensors(artifacts.tokenizer / paths.COLLABORATIVE_FILE)["part"]
    index = WordIndex.of(catalogue_words(catalogue, text_columns))
    scorer = QueryScorer(index, load_unified(artifacts).tokenizer, load_codes(artifacts), content, part)
    vectors = torch.nn.functional.normalize(torch.from_numpy(encoder.transform(queries)), dim=1)

    def scores(row: int) -> torch.Tensor:
        return scorer.scores(words_in(queries[row]), vectors[row] if vectors[row].any() else None)

    histories = [held_out.items[row, : held_out.lengths[row]].tolist() for row in kept]
    return fit_search_weight(retriever, histories, held_out.targets[kept].tolist(), scores)
