"""What a bundle answers with: retrievers, rules and searches, built of its parts.

Shapes: N items, D content dimensions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from unigrec.core.models.ensemble import members_of
from unigrec.core.retrieval.dense import DenseRetriever
from unigrec.core.retrieval.fused import FusedRetriever
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.core.retrieval.retriever import Retriever
from unigrec.serving.filters import CatalogueFilter
from unigrec.serving.manifest import CATALOGUE, SERVED, Serving
from unigrec.serving.reasons import Reasons
from unigrec.serving.related import RelatedItems
from unigrec.serving.rules import Rules
from unigrec.serving.search import WordSearch

if TYPE_CHECKING:
    from torch import Tensor

    from unigrec.core.retrieval.baskets import Baskets
    from unigrec.core.retrieval.cells import Cells
    from unigrec.serving.parts import Parts


class Retrievers(NamedTuple):
    """What ranks the items."""

    named: dict[RankBy, Retriever]  # of a bundle of an earlier version: the generative one alone
    cells: Cells | None  # of the trained items' content, if they are many


class Answering(NamedTuple):
    """What answers about items and words, and what gives reasons. Bundles of earlier versions lack the last two."""

    related: RelatedItems
    words: WordSearch | None
    reasons: Reasons | None


def build_retrievers(parts: Parts, serving: Serving) -> Retrievers:
    """Raises ValueError when two items have one identifier, or the stored tree is none."""
    computed, ranking = parts.computed, parts.ranking
    generative = GenerativeRetriever.hardened(
        parts.recommender,
        parts.codes[: parts.trained],
        serving.history,
        serving.beam,
        stored=None if computed is None else computed.tree,
        tokens=parts.tokens,
    )
    if ranking is None:
        return Retrievers({RankBy.GENERATIVE: generative}, None)
    means = (None, None) if computed is None else (computed.dense_means, computed.content_means)
    dense = DenseRetriever(ranking.dense, generative.tree, generative.device, means=means[0])
    fused = FusedRetriever(generative, dense, ranking.neighbours, ranking.fusion.weights, means[1])
    named = {RankBy.GENERATIVE: generative, RankBy.DENSE: dense, RankBy.FUSED: fused}
    return Retrievers(named, fused.by_content)


def build_rules(folder: Path, manifest: dict[str, Any], parts: Parts) -> Rules:
    """What a list of recommendations may hold, by the columns of the catalogue."""
    served = [folder / SERVED] if SERVED in manifest["files"] else []
    columns = CatalogueFilter(folder / CATALOGUE, *served)
    until = manifest.get("data", {}).get("until", 0)
    withdrawn = None if parts.extension is None else parts.extension.withdrawn
    return Rules(columns, parts.catalogue.by_id, parts.codes, until, withdrawn=withdrawn)


def build_answering(folder: Path, parts: Parts, serving: Serving, retrievers: Retrievers) -> Answering:
    """What answers other questions than what comes next."""
    codes, ranking, computed, cells = parts.codes, parts.ranking, parts.computed, retrievers.cells
    content, baskets = _of_all_items(parts)
    names, titles = parts.catalogue.ids, parts.catalogue.titles
    tree = retrievers.named[RankBy.GENERATIVE].tree
    related = RelatedItems(codes, content, baskets, names=names, titles=titles, tree=tree, cells=cells)
    if ranking is None:
        return Answering(related, None, None)
    words = WordSearch(
        folder,
        serving.text_columns,
        codes,
        content=content,
        trained=parts.trained,
        index=None if computed is None else computed.words,
        cells=cells,
    )
    reasons = Reasons(
        members_of(ranking.dense)[0],
        ranking.neighbours,
        ranking.fusion.weights,
        baskets=baskets,
        codes=codes,
        names=names,
        titles=titles,
        words=None if computed is None else computed.title_words,
    )
    return Answering(related, words, reasons)


def _of_all_items(parts: Parts) -> tuple[Tensor, Baskets | None]:
    """Content (N, D) and baskets of trained and added items. Bundles of earlier versions have content of no meaning."""
    if parts.ranking is None:
        return torch.zeros(parts.trained, 1), parts.baskets
    content, baskets, extension = parts.ranking.neighbours.content, parts.baskets, parts.extension
    if extension is None or not extension.added:
        return content, baskets
    content = torch.cat([content, extension.content])
    return content, None if baskets is None else baskets.with_items(extension.added)
