"""The bundle: the servable model as one folder (`unigrec.serving.manifest` names its files). It holds no pickle.

`Bundle.load` trusts no file: it checks names, sizes and hashes, then parses, then checks that the parts fit together.

Shapes: B histories, T codes per identifier, L levels, N items; the last M of them came after the training.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from unigrec.base.errors import UnigrecError
from unigrec.core.retrieval.beam import BeamResult
from unigrec.core.retrieval.new_items import NewItems
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.core.retrieval.retriever import Retriever
from unigrec.core.retrieval.search import SEARCH_WEIGHT, with_history
from unigrec.core.retrieval.selection import Search, boosted, select
from unigrec.serving import users
from unigrec.serving.answering import build_answering, build_retrievers, build_rules
from unigrec.serving.loaded_before import remember, stamps_of, was_loaded
from unigrec.serving.manifest import COMPUTED, IDENTIFIERS, Serving, open_bundle, read_manifest
from unigrec.serving.parts import Parts, read_parts
from unigrec.serving.popularity import Popularity
from unigrec.serving.schema import (
    Answer,
    AudienceAnswer,
    ComplementAnswer,
    FoundItem,
    ItemAnswer,
    LookalikeAnswer,
    Reason,
    RecommendedItem,
    SearchAnswer,
    SegmentsAnswer,
    SimilarAnswer,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from unigrec.serving.schema import Diversity, NewShare


BELOW = 1000.0  # taken from the scores of items that came after the training: they stand below all trained items


class Lists(NamedTuple):
    """Lists of items for B histories."""

    best: BeamResult  # items int64 (B, k), -1 after the last item of a shorter list; scores float32 (B, k)
    unknown: np.ndarray  # int64 (B,) items of the history that the catalogue does not hold
    by_popularity: np.ndarray  # bool (B,) whether it is the list of the most popular items: no item was known


class Bundle:
    """A loaded bundle; `Bundle.load` makes one."""

    def __init__(self, folder: Path, manifest: dict[str, Any], parts: Parts):
        """`load` has read and checked the parts. Raises ValueError as `build_retrievers`."""
        self.folder, self.manifest, self.recommender = folder, manifest, parts.recommender
        self.serving = Serving(**manifest["serving"])
        self.identifiers, self.trained = parts.codes, parts.trained
        catalogue, ranking, extension = parts.catalogue, parts.ranking, parts.extension
        self.item_ids, self.index_of, self.titles = catalogue.ids, catalogue.by_id, catalogue.titles
        order = None if parts.computed is None else parts.computed.most_popular
        self.popularity = Popularity(catalogue.train_counts[: self.trained], order)
        built = build_retrievers(parts, self.serving)
        self.retrievers: dict[RankBy, Retriever] = built.named
        self.ranks_by = RankBy.GENERATIVE if ranking is None else ranking.fusion.by  # where a request does not say
        self._search_weight = SEARCH_WEIGHT if ranking is None else ranking.fusion.search_weight
        self.new_items: NewItems | None = None
        self._stand_ins = torch.empty(0, dtype=torch.int64)  # (M,) the trained item with the nearest text
        if extension is not None and extension.added and ranking is not None:
            self.new_items = NewItems(ranking.dense, extension.content, ranking.neighbours.content)
            self._stand_ins = self.new_items.stand_ins()
        self._rules = build_rules(folder, manifest, parts)
        self._related, self._words, self._reasons = build_answering(folder, parts, self.serving, built)

    @property
    def id(self) -> str:
        """A hash of the contents: equal bundles have equal ids, no matter when and from which commit they were made."""
        return self.manifest["id"]

    @classmethod
    def load(cls, folder: Path) -> Bundle:
        """Check and read a bundle. What was loaded before is not read as a whole (`unigrec.serving.loaded_before`).

        Raises:
            UnigrecError: a file is missing, unknown, changed, too large or not of its format, or the parts do not
                fit together; the message names the file. Or the bundle was replaced meanwhile.
        """
        manifest = read_manifest(folder)
        began, stamps = time.time_ns(), stamps_of(folder, manifest)
        checked = was_loaded(folder, manifest, stamps)
        found = open_bundle(folder, unread=stamps if checked else ())
        parts = read_parts(folder, manifest, checked)
        if found != manifest or stamps_of(folder, manifest) != stamps:
            raise UnigrecError(f"{folder}: changed while it was loaded; load it again")
        try:
            bundle = cls(folder, manifest, parts)
        except ValueError as error:  # two items with one identifier, or a tree that is none
            name = IDENTIFIERS if parts.computed is None else COMPUTED
            raise UnigrecError(f"{folder / name}: {error}") from error
        if not checked:
            remember(folder, manifest, stamps, began)
        return bundle

    def warm_up(self) -> None:
        """Read what the first search and the first reasons would read."""
        if self._words is not None:
            self._words.warm_up()
        if self._reasons is not None:
            self._reasons.warm_up()

    def recommend(
        self,
        histories: Sequence[Sequence[str | None]],
        k: int = 10,
        allow: Collection[str] | None = None,
        deny: Collection[str] | None = None,
        exclude_history: bool = False,
        rank_by: RankBy | None = None,
        filter: str | None = None,
        diversity: Diversity | None = None,
        new_share: NewShare | None = None,
        boost: Mapping[str, float] | None = None,
        reasons: bool = False,
    ) -> list[Answer]:
        """The k best items for each history, as an answer with titles. Arguments and errors: as `rank`.

        Args:
            reasons: say of every item why it is recommended.
        """
        if reasons and self._reasons is None:
            raise UnigrecError("reasons: this bundle, of an earlier version, has no dense part; run the pipeline again")
        lists = self.rank(
            histories,
            k=k,
            allow=allow,
            deny=deny,
            exclude_history=exclude_history,
            rank_by=rank_by,
            filter=filter,
            diversity=diversity,
            new_share=new_share,
            boost=boost,
        )
        return [
            Answer(
                items=self._named(lists.best, row, self.known(history) if reasons else None),
                unknown=int(lists.unknown[row]),
                by_popularity=bool(lists.by_popularity[row]),
            )
            for row, history in enumerate(histories)
        ]

    def rank(
        self,
        histories: Sequence[Sequence[str | None]],
        k: int = 10,
        allow: Collection[str] | None = None,
        deny: Collection[str] | None = None,
        exclude_history: bool = False,
        rank_by: RankBy | None = None,
        filter: str | None = None,
        diversity: Diversity | None = None,
        new_share: NewShare | None = None,
        boost: Mapping[str, float] | None = None,
    ) -> Lists:
        """The k best items for each history, as arrays.

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
            diversity: at most so many items per value of a column.
            new_share: how many of the k are young. Items that were added after the training stand below all others,
                ranked among themselves: a share brings them in.
            boost: expression -> what is added to the scores of the items that it holds for.

        Raises:
            UnigrecError: k is out of range, allow, deny and filter leave nothing, an expression is not understood, a
                rule cannot be kept, or the bundle cannot rank so.
        """
        self._check_k(k)
        retriever = self.retriever(rank_by)
        allowed = self._rules.allowed(allow, deny, filter)
        quotas, weights = self._rules.quotas(k, diversity, new_share), self._rules.boost(boost)
        known = [self.known(history) for history in histories]
        asked = [row for row, history in enumerate(known) if history]

        def search(rows: Sequence[int], permitted: torch.Tensor | None, count: int) -> BeamResult:
            histories = [known[asked[row]] for row in rows]
            return self.best_items(retriever, histories, permitted, count, exclude_history)

        def ranked(find: Search, rows: int) -> BeamResult:
            return select(find if weights is None else boosted(find, weights, allowed), rows, k, allowed, quotas)

        best = BeamResult(torch.full((len(known), k), -1), torch.full((len(known), k), float("-inf")))
        by_popularity = np.ones(len(known), bool)
        by_popularity[asked] = False
        for rows, find in ((asked, search), (np.flatnonzero(by_popularity).tolist(), self._popular)):
            if rows:
                found = ranked(find, len(rows) if find is search else 1)
                width = min(k, found.items.shape[1])
                best.items[rows, :width], best.scores[rows, :width] = found.items[:, :width], found.scores[:, :width]
        unknown = np.array([len(history) - len(kept) for history, kept in zip(histories, known, strict=True)], np.int64)
        return Lists(best, unknown, by_popularity)

    def known(self, history: Sequence[str | None]) -> list[int]:
        """Places of the items of a history that the catalogue holds."""
        places = (self.index_of.get(item) for item in history if item is not None)
        return [place for place in places if place is not None]

    def trained_items(self, history: Sequence[int]) -> list[int]:
        """Those places of a history that are of items from the training; the others were added after it."""
        return [item for item in history if item < self.trained]

    def retriever(self, by: RankBy | None = None) -> Retriever:
        """What ranks the items; None: by `ranks_by`. Raises UnigrecError for one that earlier versions lack."""
        found = self.retrievers.get(by or self.ranks_by)
        if found is None:
            raise UnigrecError(f"rank_by = {by}: this bundle, of an earlier version, ranks by {self.ranks_by} only")
        return found

    def best_items(
        self,
        retriever: Retriever,
        histories: list[list[int]],
        allowed: torch.Tensor | None,
        count: int,
        exclude: bool = False,
    ) -> BeamResult:
        """The best `count` allowed items for each history, of which added ones stand below all trained ones.

        exclude: leave out the items of a history.
        """
        read = [self._readable(own) for own in histories]
        of_trained = None if allowed is None else allowed[: self.trained]
        denied = [self.trained_items(own) for own in histories] if exclude else None
        best = retriever.retrieve(read, min(count, self.trained), of_trained, denied=denied)
        if self.new_items is None:
            return best
        of_new = None if allowed is None else allowed[self.trained :]
        held = [[item - self.trained for item in own if item >= self.trained] for own in histories] if exclude else None
        new = self.new_items.best(read, count, of_new, denied=held)
        below = BeamResult(torch.where(new.items >= 0, new.items + self.trained, -1), new.scores - BELOW)
        items, scores = (torch.cat(pair, dim=1) for pair in zip(best, below, strict=True))
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        # No more than was asked for: `select` has to ask for further trained items before it takes added ones.
        return BeamResult(items.gather(1, order)[:, :count], scores[:, :count])

    def _readable(self, history: list[int]) -> list[int]:
        """The trained items of a history; of one without any, the nearest trained items instead."""
        return self.trained_items(history) or self._stand_ins[torch.tensor(history) - self.trained].tolist()

    def search(
        self,
        query: str,
        history: Sequence[str | None] = (),
        k: int = 10,
        allow: Collection[str] | None = None,
        deny: Collection[str] | None = None,
        filter: str | None = None,
        search_weight: float | None = None,
        vector: np.ndarray | None = None,
    ) -> SearchAnswer:
        """The k items that a query asks for, and that suit a history.

        Args:
            query: words.
            history: item ids, oldest first; without a known one, the query alone decides.
            k, allow, deny, filter: as in `recommend`.
            search_weight: of the query's score next to 1 for the history's; with 0, the answer is that of `recommend`;
                None: what validation chose.
            vector: (D,) of the query, where a language model embedded the texts: a bundle does not hold it. Without
                one, words alone decide.

        Raises:
            UnigrecError: no word of the query is known, or as `recommend`.
        """
        self._check_k(k)
        if self._words is None:
            raise UnigrecError("search: this bundle, of an earlier version, holds no texts; run the pipeline again")
        allowed = self._rules.allowed(allow, deny, filter)
        known = self.known(history)
        scores = self._words.scores(query, vector)
        if known:
            best = with_history(
                lambda _, permitted, count: self.best_items(self.retriever(), [known], permitted, count),
                scores,
                self._search_weight if search_weight is None else search_weight,
                k,
                allowed,
            )
        else:
            best = scores.best(k, allowed)
        found = [(item, score) for item, score in zip(*(part[0].tolist() for part in best), strict=True) if item >= 0]
        return SearchAnswer(
            items=tuple(FoundItem(item_id=self.item_ids[i], title=self.titles[i], score=score) for i, score in found),
            unknown_words=tuple(self._words.unknown(query)),
            unknown=len(history) - len(known),
        )

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
        return self._related.similar(self.index(item), k, self._allowed_array(allow, deny, filter))

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
        known = self.known(basket)
        if not known:
            raise UnigrecError("no item of the basket is in the catalogue")
        return self._related.complement(
            known, k, self._allowed_array(allow, deny, filter), unknown=len(basket) - len(known)
        )

    def audience(
        self, item: str, histories: Sequence[Sequence[str | None]], k: int = 10, rank_by: RankBy | None = None
    ) -> AudienceAnswer:
        """The k histories after which an item is most likely to come next, by its exact score.

        In a catalogue of more than `dense.SCANNED` items, a fused score is exact but for a constant per history.

        Args:
            item: its id. histories, rank_by: as in `recommend`; histories without a known item have no score.

        Raises:
            UnigrecError: the catalogue does not hold the item, no history holds a known item, or as `recommend`.
        """
        return users.audience(self, item, histories, k, rank_by)

    def lookalike(
        self, seeds: Sequence[Sequence[str | None]], others: Sequence[Sequence[str | None]], k: int = 10, seed: int = 0
    ) -> LookalikeAnswer:
        """The k of the other users who are most like the seeds, by the teacher's states after their histories.

        Args:
            seeds, others: item ids of each user, oldest first. seed: of the parts that measure how well it works.

        Raises:
            UnigrecError: too few seeds or others have a trained item, or the bundle is of an earlier version.
        """
        return users.lookalike(self, seeds, others, k, seed)

    def segments(
        self, histories: Sequence[Sequence[str | None]], k: int = 12, parts: int = 3, seed: int = 0
    ) -> SegmentsAnswer:
        """Kinds of users, nested, with the items and words that tell each.

        Args:
            histories: item ids of each user, oldest first. k: segments. parts: of each, at most. seed: of k-means.

        Raises:
            UnigrecError: too few users have a trained item, or the bundle is of an earlier version.
        """
        return users.segments(self, histories, k, parts, seed)

    def item(self, item: str) -> ItemAnswer:
        """What the bundle knows of an item. Raises UnigrecError when the catalogue does not hold it."""
        index = self.index(item)
        columns = {name: self._rules.filter.column(name)[index].as_py() for name in self._rules.filter.columns}
        codes = tuple(self.identifiers[index].tolist())
        return ItemAnswer(item_id=item, title=self.titles[index], identifier=codes, columns=columns)

    def index(self, item: str) -> int:
        """Place of an item in the catalogue. Raises UnigrecError when it does not hold the item."""
        if item not in self.index_of:
            raise UnigrecError(f"no item {item!r} in the catalogue")
        return self.index_of[item]

    def _check_k(self, k: int) -> None:
        if not 1 <= k <= len(self.item_ids):
            raise UnigrecError(f"k = {k}: expected 1 to {len(self.item_ids)}, the size of the catalogue")

    def _allowed_array(
        self, allow: Collection[str] | None, deny: Collection[str] | None, filter: str | None
    ) -> np.ndarray | None:
        allowed = self._rules.allowed(allow, deny, filter)
        return None if allowed is None else allowed.numpy()

    def _popular(self, rows: Sequence[int], allowed: torch.Tensor | None, count: int) -> BeamResult:
        return self.popularity.best(allowed, count)

    def _named(self, best: BeamResult, row: int, history: Sequence[int] | None) -> tuple[RecommendedItem, ...]:
        """The found items of a row, with their reasons if a history is given; -1 stands for no item."""
        places = [place for place, item in enumerate(best.items[row].tolist()) if item >= 0]
        items, scores = best.items[row, places].tolist(), best.scores[row, places].tolist()
        reasons: list[Reason | None] = [None] * len(items)
        if history is not None and self._reasons is not None:
            reasons = [*self._reasons.of(history, items)]
        return tuple(
            RecommendedItem(item_id=self.item_ids[item], title=self.titles[item], score=score, reason=reason)
            for item, score, reason in zip(items, scores, reasons, strict=True)
        )
