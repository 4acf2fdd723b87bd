"""The bundle: the servable model as one folder, which is registered, promoted and served. It holds no pickle.

    manifest.json              schema, sha256 of each other file, data version, commit, gate result
    params.yaml                the params of the run, for the record
    recommender.safetensors    weights; the config is recommender.json
    tokenizer.safetensors      weights; the config is tokenizer.json
    identifiers.safetensors    codes int32 (N, T): T is L, or L + 1 with a disambiguation code
    collaborative.safetensors  part float32 (N, E): the tokenizer's input from the teacher, for a warm start
    catalogue.parquet          item_index, item_id, text columns, train_count
    ranks.parquet              rank of each user's test item in the run, for the record
    text_encoder/              embeds the texts of new items
    report/                    metrics, curves and plots of every stage, for the experiment tracker

`Bundle.load` trusts no file: it checks names, sizes and hashes, then parses, then checks that the parts fit together.

Shapes: B histories, T codes per identifier, L levels, N items.
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
    """A loaded bundle; `Bundle.load` makes one."""

    def __init__(
        self,
        folder: Path,
        manifest: dict[str, Any],
        recommender: Recommender,
        codes: np.ndarray,
        catalogue: pa.Table,
    ):
        """codes: (N, T) int64. catalogue: N rows, as `read_catalogue` returns them. `load` has checked both."""
        self.folder, self.manifest, self.recommender = folder, manifest, recommender
        self.serving = Serving(**manifest["serving"])
        self.identifiers = codes
        self.retriever = GenerativeRetriever.hardened(recommender, codes, self.serving.history, self.serving.beam)
        self.item_ids: list[str] = catalogue["item_id"].to_pylist()
        self.index_of = {item_id: index for index, item_id in enumerate(self.item_ids)}
        # An Arrow column: a million titles take no more memory than their letters.
        self.titles: pa.Array = catalogue["title"].combine_chunks()
        counts = torch.as_tensor(catalogue["train_count"].to_numpy().astype(np.float64))
        self.popularity = ((counts + 1.0) / (counts + 1.0).sum()).log()  # (N,) smoothed, so always finite
        self.most_popular = counts.sort(descending=True, stable=True).indices  # (N,)

    @property
    def id(self) -> str:
        """A hash of the contents: equal bundles have equal ids, no matter when and from which commit they were made."""
        return self.manifest["id"]

    @classmethod
    def load(cls, folder: Path) -> Bundle:
        """Check and read a bundle.

        Raises:
            UnigrecError: a file is missing, unknown, changed, too large or not of its format, or the parts do not
                fit together; the message names the file.
        """
        manifest = open_bundle(folder)
        catalogue = read_catalogue(folder, manifest["serving"]["text_columns"])
        recommender = load_recommender(folder / RECOMMENDER, folder / RECOMMENDER_CONFIG)
        codes = read_codes(folder, recommender.config)
        check_catalogue(folder, catalogue, len(codes))
        check_tokenizer(folder, recommender.config)
        try:
            return cls(folder, manifest, recommender.requires_grad_(False), codes=codes, catalogue=catalogue)
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

        Items of a history that the catalogue does not hold are left out and counted. If none is left, the most popular
        items are returned and marked as such, since a shop has to show something to a new visitor.

        Args:
            histories: item ids, oldest first; the last `serving.history` known ones are read. None is an unknown item.
            k: 1 to the size of the catalogue.
            allow: the only items that may be recommended. deny: items that may not. Unknown ids in both are ignored.
            exclude_history: do not recommend the items of a history for it.

        Raises:
            UnigrecError: k is out of range, or allow and deny leave nothing.
        """
        if not 1 <= k <= len(self.item_ids):
            raise UnigrecError(f"k = {k}: expected 1 to {len(self.item_ids)}, the size of the catalogue")
        allowed = self._allowed(allow, deny)
        known = [[self.index_of[item] for item in history if item in self.index_of] for history in histories]
        unknown = [len(history) - len(kept) for history, kept in zip(histories, known, strict=True)]
        asked = [row for row, history in enumerate(known) if history]
        answers = self._search([known[row] for row in asked], k, allowed, exclude_history=exclude_history)
        found = dict(zip(asked, answers, strict=True))
        popular = self._popular(k, allowed) if len(asked) < len(known) else ()
        return [
            Answer(items=found.get(row, popular), unknown=unknown[row], by_popularity=row not in found)
            for row in range(len(known))
        ]

    def _allowed(self, allow: Collection[str] | None, deny: Collection[str] | None) -> torch.Tensor | None:
        """(N,) bool, or None if every item is allowed."""
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
        """Beam search for histories of catalogue indices, none of them empty."""
        found = self.retriever.retrieve(known, k, allowed, denied=known if exclude_history else None)
        return [self._named(*row) for row in zip(found.items.tolist(), found.scores.tolist(), strict=True)]

    def _popular(self, k: int, allowed: torch.Tensor | None) -> tuple[RecommendedItem, ...]:
        ranked = self.most_popular if allowed is None else self.most_popular[allowed[self.most_popular]]
        return self._named(ranked[:k].tolist(), self.popularity[ranked[:k]].tolist())

    def _named(self, items: list[int], scores: list[float]) -> tuple[RecommendedItem, ...]:
        """Items for catalogue indices and scores; -1 stands for no item."""
        return tuple(
            RecommendedItem(item_id=self.item_ids[item], title=self.titles[item].as_py(), score=score)
            for item, score in zip(items, scores, strict=True)
            if item >= 0
        )
