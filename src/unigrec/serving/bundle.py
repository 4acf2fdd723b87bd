"""The servable model as one folder: what is registered, promoted and served. It holds no pickle and trusts nothing.

    manifest.json              schema, sha256 of every other file, data, code, whether the gates passed
    params.yaml                the params of the run, for the record
    recommender.safetensors    weights, with their shape in recommender.json
    tokenizer.safetensors      weights, with their shape in tokenizer.json
    identifiers.safetensors    codes int32 (N, T): T = L levels, and one more where a disambiguation code was added
    collaborative.safetensors  what the tokenizer read of the teacher, for a later training that starts from here
    catalogue.parquet          item_index, item_id, text columns, train_count
    ranks.parquet              each test user's rank of the held-out item, as the run found it; for the record
    text_encoder/              what embeds a new item's text
    report/                    closing metrics, curves and pictures of every stage, for the experiment tracker

`Bundle.load` checks names, sizes and hashes before it parses anything, then that the parts belong together.

Shapes: B histories, T codes of an identifier, L levels, N items.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from unigrec.base.errors import UnigrecError
from unigrec.core.models.recommender import Recommender
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.serving.manifest import IDENTIFIERS, RECOMMENDER, RECOMMENDER_CONFIG, Serving, open_bundle
from unigrec.serving.networks import load_recommender
from unigrec.serving.parts import check_catalogue, check_tokenizer, read_catalogue, read_codes
from unigrec.serving.schema import Answer, RecommendedItem

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class Bundle:
    """A loaded bundle. Make one with `Bundle.load`."""

    def __init__(
        self,
        folder: Path,
        manifest: dict[str, Any],
        recommender: Recommender,
        codes: np.ndarray,
        catalogue: pa.Table,
    ):
        """codes: (N, T) int64. catalogue: N rows, as `read_catalogue` reads them. `load` has checked that both fit."""
        self.folder, self.manifest, self.recommender = folder, manifest, recommender
        self.serving = Serving(**manifest["serving"])
        self.identifiers = codes
        self.retriever = GenerativeRetriever.hardened(recommender, codes, self.serving.history, self.serving.beam)
        self.item_ids: list[str] = catalogue["item_id"].to_pylist()
        self.index_of = {item_id: index for index, item_id in enumerate(self.item_ids)}
        # What a person reads; stays in columns, where a million titles take the memory of their letters.
        self.titles: pa.Array = catalogue["title"].combine_chunks()
        counts = torch.as_tensor(catalogue["train_count"].to_numpy().astype(np.float64))
        self.popularity = ((counts + 1.0) / (counts + 1.0).sum()).log()  # (N,) smoothed, so that it is finite
        self.most_popular = counts.sort(descending=True, stable=True).indices  # (N,)

    @property
    def id(self) -> str:
        """A hash of the contents: equal for equal bundles, whenever and from whatever commit they were made."""
        return self.manifest["id"]

    @classmethod
    def load(cls, folder: Path) -> Bundle:
        """Check and read a bundle.

        Raises:
            UnigrecError: a file is missing, unknown, changed, too large or not of its format, or the parts do not
                belong together; the message names the file.
        """
        manifest = open_bundle(folder)
        catalogue = read_catalogue(folder, manifest["serving"]["text_columns"])
        recommender = load_recommender(folder / RECOMMENDER, folder / RECOMMENDER_CONFIG)
        codes = read_codes(folder, recommender.config)
        check_catalogue(folder, catalogue, len(codes))
        check_tokenizer(folder, recommender.config)
        try:
            return cls(folder, manifest, recommender.requires_grad_(False), codes, catalogue)
        except ValueError as error:  # two items with one identifier
            raise UnigrecError(f"{folder / IDENTIFIERS}: {error}") from error

    def recommend(
        self,
        histories: Sequence[Sequence[str | None]],
        k: int = 10,
        allow: Collection[str] | None = None,
        deny: Collection[str] | None = None,
        exclude_history: bool = False,
    ) -> list[Answer]:
        """The k best items for each history.

        Items of a history that the catalogue does not hold are left out and counted. Where nothing is left, the most
        popular items are returned and marked as such: a shop has to show something to a new visitor.

        Args:
            histories: item ids, oldest first; the last `serving.history` known ones count. None is an unknown item.
            k: 1 to the size of the catalogue.
            allow: only these items may be recommended. deny: these may not. Unknown ids in both are ignored.
            exclude_history: nothing that is in a history is recommended for it.

        Raises:
            UnigrecError: k is out of range, or allow and deny leave nothing.
        """
        if not 1 <= k <= len(self.item_ids):
            raise UnigrecError(f"k = {k}: expected 1 to {len(self.item_ids)}, the size of the catalogue")
        allowed = self._allowed(allow, deny)
        known = [[self.index_of[item] for item in history if item in self.index_of] for history in histories]
        unknown = [len(history) - len(kept) for history, kept in zip(histories, known, strict=True)]
        asked = [row for row, history in enumerate(known) if history]
        answers = self._search([known[row] for row in asked], k, allowed, exclude_history)
        found = dict(zip(asked, answers, strict=True))
        popular = self._popular(k, allowed) if len(asked) < len(known) else ()
        return [
            Answer(items=found.get(row, popular), unknown=unknown[row], by_popularity=row not in found)
            for row in range(len(known))
        ]

    def _allowed(self, allow: Collection[str] | None, deny: Collection[str] | None) -> torch.Tensor | None:
        """(N,) bool, or None where everything is allowed."""
        if allow is None and not deny:
            return None
        allowed = torch.full((len(self.item_ids),), allow is None)
        allowed[[self.index_of[item] for item in allow or () if item in self.index_of]] = True
        allowed[[self.index_of[item] for item in deny or () if item in self.index_of]] = False
        if not allowed.any():
            raise UnigrecError("the allow- and deny-list leave no item of the catalogue to recommend")
        return allowed

    def _search(
        self, known: list[list[int]], k: int, allowed: torch.Tensor | None, exclude_history: bool
    ) -> list[tuple[RecommendedItem, ...]]:
        """Beam search for histories of catalogue indices, none empty."""
        found = self.retriever.retrieve(known, k, allowed, denied=known if exclude_history else None)
        return [self._named(*row) for row in zip(found.items.tolist(), found.scores.tolist(), strict=True)]

    def _popular(self, k: int, allowed: torch.Tensor | None) -> tuple[RecommendedItem, ...]:
        ranked = self.most_popular if allowed is None else self.most_popular[allowed[self.most_popular]]
        return self._named(ranked[:k].tolist(), self.popularity[ranked[:k]].tolist())

    def _named(self, items: list[int], scores: list[float]) -> tuple[RecommendedItem, ...]:
        """-1 stands for no item."""
        return tuple(
            RecommendedItem(item_id=self.item_ids[item], title=self.titles[item].as_py(), score=score)
            for item, score in zip(items, scores, strict=True)
            if item >= 0
        )
