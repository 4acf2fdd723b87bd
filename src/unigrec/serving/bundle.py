"""The bundle: the servable model as one folder, which is registered, promoted and served. It holds no pickle.

    manifest.json              schema, sha256 of each other file, data version, commit, gate result
    params.yaml                the params of the run, for the record
    recommender.safetensors    weights; the config is recommender.json
    tokenizer.safetensors      weights; the config is tokenizer.json
    identifiers.safetensors    codes int32 (N, T): T is L, or L + 1 with a disambiguation code
    collaborative.safetensors  part float32 (N, E): the tokenizer's input from the teacher, for a warm start
    dense.safetensors          weights of the dense part, which is the teacher; the config is dense.json
    neighbours.safetensors     what follows an item, and content vectors (unigrec.serving.ranking_parts)
    fusion.json                what ranks the items, and the weights of the fused ranking
    baskets.safetensors        items that are bought together (unigrec.serving.basket_file)
    catalogue.parquet          item_index, item_id, text columns, train_count
    ranks.parquet              rank of each user's test item in the run, for the record
    extension.safetensors      items that were added or withdrawn after the training (unigrec.serving.extension)
    text_encoder/              embeds the texts of new items
    report/                    metrics, curves and plots of every stage, for the experiment tracker

`Bundle.load` trusts no file: it checks names, sizes and hashes, then parses, then checks that the parts fit together.

Shapes: B histories, T codes per identifier, L levels, N items; the last M of them came after the training.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from unigrec.base.errors import UnigrecError
from unigrec.core.models.recommender import Recommender
from unigrec.core.retrieval.dense import DenseRetriever
from unigrec.core.retrieval.fused import FusedRetriever
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.retrieval.new_items import NewItems
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.core.retrieval.retriever import Retriever
from unigrec.serving.basket_file import read_baskets
from unigrec.serving.extension import Extension, read_extension
from unigrec.serving.filters import CatalogueFilter
from unigrec.serving.manifest import (
    BASKETS,
    CATALOGUE,
    EXTENSION,
    FUSION,
    IDENTIFIERS,
    RECOMMENDER,
    RECOMMENDER_CONFIG,
    Serving,
    open_bundle,
)
from unigrec.serving.networks import load_recommender
from unigrec.serving.parts import (
    Ranking,
    check_catalogue,
    check_extension,
    check_tokenizer,
    read_catalogue,
    read_codes,
    read_ranking,
)
from unigrec.serving.related import RelatedItems
from unigrec.serving.schema import Answer, ComplementAnswer, RecommendedItem, SimilarAnswer

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from unigrec.core.retrieval.baskets import Baskets


class Bundle:
    """A loaded bundle; `Bundle.load` makes one."""

    def __init__(
        self,
        folder: Path,
        manifest: dict[str, Any],
        recommender: Recommender,
        codes: np.ndarray,
        catalogue: pa.Table,
        ranking: Ranking | None = None,
        baskets: Baskets | None = None,
        extension: Extension | None = None,
    ):
        """codes: (N, T) int64. catalogue: N rows, as `read_catalogue` returns them. `load` has checked all parts.

        ranking: the parts of the fused ranking. baskets: counted pairs. Bundles of earlier versions lack them.
        extension: what was added and withdrawn after the training.
        """
        self.folder, self.manifest, self.recommender = folder, manifest, recommender
        self.serving = Serving(**manifest["serving"])
        self.identifiers = codes
        self.item_ids: list[str] = catalogue["item_id"].to_pylist()
        self.index_of = {item_id: index for index, item_id in enumerate(self.item_ids)}
        # An Arrow column: a million titles take no more memory than their letters.
        self.titles: pa.Array = catalogue["title"].combine_chunks()
        self.trained = len(codes) if extension is None else len(codes) - extension.added
        counts = torch.as_tensor(catalogue["train_count"].to_numpy()[: self.trained].astype(np.float64))
        self.popularity = ((counts + 1.0) / (counts + 1.0).sum()).log()  # (N - M,) smoothed, so always finite
        self.most_popular = counts.sort(descending=True, stable=True).indices  # (N - M,)
        trained = codes[: self.trained]
        generative = GenerativeRetriever.hardened(recommender, trained, self.serving.history, self.serving.beam)
        self.retrievers: dict[RankBy, Retriever] = {RankBy.GENERATIVE: generative}
        self.ranks_by = RankBy.GENERATIVE  # where a request does not say
        if ranking is not None:
            self.ranks_by = ranking.fusion.by
            dense = DenseRetriever(ranking.dense, generative.tree, generative.device)
            fused = FusedRetriever(generative, dense, ranking.neighbours, ranking.fusion.weights)
            self.retrievers |= {RankBy.DENSE: dense, RankBy.FUSED: fused}
        content = torch.zeros(len(trained), 1) if ranking is None else ranking.neighbours.content
        self._new: NewItems | None = None
        self._read_as = torch.arange(len(codes))  # (N,) the trained item as which models read an item of a history
        self._offered = torch.ones(len(codes), dtype=torch.bool)  # (N,) not withdrawn
        if extension is not None:
            self._offered[extension.withdrawn] = False
        if extension is not None and extension.added and ranking is not None:
            self._new = NewItems(ranking.dense, extension.content, content)
            self._read_as[self.trained :] = self._new.stand_ins()
            content = torch.cat([content, extension.content])
            baskets = None if baskets is None else baskets.with_items(extension.added)
        self._filter = CatalogueFilter(folder / CATALOGUE)
        self._related = RelatedItems(codes, content, baskets, self.item_ids, title=self._title)

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
        extension = read_extension(folder / EXTENSION, len(codes)) if EXTENSION in manifest["files"] else None
        trained = len(codes) if extension is None else len(codes) - extension.added
        ranking = read_ranking(folder, trained) if FUSION in manifest["files"] else None
        check_extension(folder, extension, ranking)
        baskets = read_baskets(folder / BASKETS, trained) if BASKETS in manifest["files"] else None
        try:
            return cls(
                folder,
                manifest,
                recommender.requires_grad_(False),
                codes=codes,
                catalogue=catalogue,
                ranking=ranking,
                baskets=baskets,
                extension=extension,
            )
        except ValueError as error:  # two items with one identifier
            raise UnigrecError(f"{folder / IDENTIFIERS}: {error}") from error

    def recommend(
        self,
        histories: Sequence[Sequence[str | None]],
        k: int = 10,
        allow: Collection[str] | None = None,
        deny: Collection[str] | None = None,
        exclude_history: bool = False,
        rank_by: RankBy | None = None,
        filter: str | None = None,
        new_places: int = 0,
    ) -> list[Answer]:
        """The k best items for each history.

        Items of a history that the catalogue does not hold are left out and counted. If none is left, the most popular
        items are returned and marked as such, since a shop has to show something to a new visitor.

        Args:
            histories: item ids, oldest first; the last known ones are read. None is an unknown item.
            k: 1 to the size of the catalogue.
            allow: the only items that may be recommended. deny: items that may not. Unknown ids in both are ignored.
            exclude_history: do not recommend the items of a history for it.
            rank_by: what ranks the items; None: `ranks_by`.
            filter: an expression over the catalogue's columns (`unigrec.serving.filters`); only items that it holds
                for are recommended.
            new_places: the last so many of the k places are for items that were added after the training
                (`unigrec.core.retrieval.new_items`), if there are so many. Without it none of them is recommended.

        Raises:
            UnigrecError: k is out of range, allow, deny and filter leave nothing, the filter is not understood, or the
                bundle cannot rank so.
        """
        self._check_k(k)
        if not 0 <= new_places <= k:
            raise UnigrecError(f"new_places = {new_places}: expected 0 to k = {k}")
        by = rank_by or self.ranks_by
        if by not in self.retrievers:
            raise UnigrecError(f"rank_by = {by}: this bundle, of an earlier version, ranks by {self.ranks_by} only")
        allowed = self._allowed(allow, deny, filter)
        known = [[self.index_of[item] for item in history if item in self.index_of] for history in histories]
        unknown = [len(history) - len(kept) for history, kept in zip(histories, known, strict=True)]
        asked = [row for row, history in enumerate(known) if history]
        read = [self._read_as[history].tolist() for history in map(known.__getitem__, asked)]
        # New items have their own places: what comes before is ranked as it was without them.
        seen = [known[row] for row in asked]
        new = self._best_new(read, new_places, allowed, seen)
        trained = None if allowed is None else allowed[: self.trained]
        denied = [[item for item in row if item < self.trained] for row in seen] if exclude_history else None
        best = self.retrievers[by].retrieve(read, k, trained, denied=denied)
        found = {
            row: (*self._named(items[: k - len(last)], scores[: k - len(last)]), *last)
            for row, items, scores, last in zip(asked, best.items.tolist(), best.scores.tolist(), new, strict=True)
        }
        popular = self._popular(k, trained) if len(asked) < len(known) else ()
        return [
            Answer(items=found.get(row, popular), unknown=unknown[row], by_popularity=row not in found)
            for row in range(len(known))
        ]

    def _best_new(
        self,
        histories: list[list[int]],
        k: int,
        allowed: torch.Tensor | None,
        seen: list[list[int]],
    ) -> list[tuple[RecommendedItem, ...]]:
        """The k best added items that a history does not hold yet, for each history of trained items.

        seen: the histories as they were given.
        """
        if self._new is None or not k:
            return [()] * len(histories)
        permitted = None if allowed is None else allowed[self.trained :]
        held = [[item - self.trained for item in row if item >= self.trained] for row in seen]
        best = self._new.best(histories, k, permitted, denied=held)
        items = torch.where(best.items >= 0, best.items + self.trained, -1)
        return [self._named(*row) for row in zip(items.tolist(), best.scores.tolist(), strict=True)]

    def similar(
        self,
        item: str,
        k: int = 10,
        allow: Collection[str] | None = None,
        deny: Collection[str] | None = None,
        filter: str | None = None,
    ) -> SimilarAnswer:
        """The k items most like one: those of its kind, by their identifiers, with the nearest texts first.

        Args:
            item: its id. k, allow, deny, filter: as in `recommend`.

        Raises:
            UnigrecError: the catalogue does not hold the item, or as `recommend`.
        """
        self._check_k(k)
        if item not in self.index_of:
            raise UnigrecError(f"no item {item!r} in the catalogue")
        return self._related.similar(self.index_of[item], k, self._allowed_array(allow, deny, filter))

    def complement(
        self,
        basket: Sequence[str],
        k: int = 10,
        allow: Collection[str] | None = None,
        deny: Collection[str] | None = None,
        filter: str | None = None,
    ) -> ComplementAnswer:
        """The k items that are bought with the basket's items more often than chance, and are of other kinds.

        Args:
            basket: item ids; unknown ones are counted and left out. k, allow, deny, filter: as in `recommend`.

        Raises:
            UnigrecError: no item of the basket is known, the bundle is of an earlier version, or as `recommend`.
        """
        self._check_k(k)
        known = [self.index_of[item] for item in basket if item in self.index_of]
        if not known:
            raise UnigrecError("no item of the basket is in the catalogue")
        return self._related.complement(
            known, k, self._allowed_array(allow, deny, filter), unknown=len(basket) - len(known)
        )

    def _check_k(self, k: int) -> None:
        if not 1 <= k <= len(self.item_ids):
            raise UnigrecError(f"k = {k}: expected 1 to {len(self.item_ids)}, the size of the catalogue")

    def _allowed_array(
        self, allow: Collection[str] | None, deny: Collection[str] | None, filter: str | None
    ) -> np.ndarray | None:
        allowed = self._allowed(allow, deny, filter)
        return None if allowed is None else allowed.numpy()

    def _allowed(
        self, allow: Collection[str] | None, deny: Collection[str] | None, filter: str | None
    ) -> torch.Tensor | None:
        """(N,) bool, or None if every item is allowed."""
        if allow is None and not deny and filter is None and bool(self._offered.all()):
            return None
        allowed = torch.full((len(self.item_ids),), allow is None)
        allowed[[self.index_of[item] for item in allow or () if item in self.index_of]] = True
        allowed[[self.index_of[item] for item in deny or () if item in self.index_of]] = False
        if filter is not None:
            allowed &= torch.from_numpy(self._filter.mask(filter))
        allowed &= self._offered
        if not allowed.any():
            raise UnigrecError("the allow-list, the deny-list and the filter leave no item of the catalogue")
        return allowed

    def _popular(self, k: int, allowed: torch.Tensor | None) -> tuple[RecommendedItem, ...]:
        ranked = self.most_popular if allowed is None else self.most_popular[allowed[self.most_popular]]
        return self._named(ranked[:k].tolist(), self.popularity[ranked[:k]].tolist())

    def _named(self, items: list[int], scores: list[float]) -> tuple[RecommendedItem, ...]:
        """Items for catalogue indices and scores; -1 stands for no item."""
        return tuple(
            RecommendedItem(item_id=self.item_ids[item], title=self._title(item), score=score)
            for item, score in zip(items, scores, strict=True)
            if item >= 0
        )

    def _title(self, index: int) -> str:
        return self.titles[index].as_py()
