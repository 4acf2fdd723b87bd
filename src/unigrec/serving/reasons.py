"""Reasons of a recommendation, as a shop can show them: items of the history, counts, the kind, and shared words.

Shapes: N items, n items of a history, k recommended items.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from unigrec.core.retrieval.reasons import support
from unigrec.serving.schema import Because, Reason
from unigrec.serving.title_words import TitleWords, title_words

if TYPE_CHECKING:
    from unigrec.core.models.ensemble import Teacher
    from unigrec.core.retrieval.baskets import Baskets
    from unigrec.core.retrieval.fused import Weights
    from unigrec.core.retrieval.neighbours import Neighbours

MOST_ITEMS, MOST_WORDS = 2, 3  # shown: items of the history, words of one
LEAST_SHARE = 0.3  # of the strongest support: weaker items are not named
NEW = "new in the shop"
POPULAR = "one of the most bought items"
WHOLE = "goes with your purchases as a whole"


class Reasons:
    """The reasons of a bundle's recommendations.

    Args:
        baskets: counted pairs; None in bundles of earlier versions. codes: (N, T). names, titles: of all items.
        words: of the titles, if they are known.
    """

    def __init__(
        self,
        model: Teacher,
        neighbours: Neighbours,
        weights: Weights,
        *,
        baskets: Baskets | None,
        codes: np.ndarray,
        names: Sequence[str],
        titles: Sequence[str],
        words: TitleWords | None = None,
    ):
        self.model, self.neighbours, self.weights, self.baskets = model, neighbours, weights, baskets
        self.codes, self.names, self.titles, self._known_words = codes, names, titles, words

    def warm_up(self) -> None:
        """Count the words that the first reasons would wait for."""
        self._words  # noqa: B018 - a cached property

    def of(self, history: Sequence[int], items: Sequence[int]) -> list[Reason]:
        """The reason of each recommended item, given the known items of the history; without one: it is popular."""
        if not history:
            return [Reason(text=POPULAR, kind=self.kind(item), because=()) for item in items]
        trained = len(self.neighbours.content)
        read, judged = [item for item in history if item < trained], [item for item in items if item < trained]
        found: dict[int, Reason] = {}
        if read and judged:
            rows = support(self.model, self.neighbours, self.weights, read, torch.tensor(judged)).numpy()
            found = {item: self._reason(item, read, row) for item, row in zip(judged, rows, strict=True)}
        return [
            found.get(item, Reason(text=WHOLE if item < trained else NEW, kind=self.kind(item), because=()))
            for item in items
        ]

    def kind(self, item: int) -> str:
        """The words that tell the items of its first code from all others; empty if there are none."""
        return self._words.kinds[int(self.codes[item, 0])]

    def _reason(self, item: int, history: Sequence[int], support: np.ndarray) -> Reason:
        adds: dict[int, float] = {}
        for other, value in zip(history, support.tolist(), strict=True):
            before = adds.get(other, 0.0)  # an item may come twice; what the item itself adds is that of all its places
            adds[other] = before + value if other == item else max(before, value)
        strongest = sorted(adds, key=lambda other: (-adds[other], other))[:MOST_ITEMS]
        named = [other for other in strongest if adds[other] > max(LEAST_SHARE * adds[strongest[0]], 0.0)]
        because = tuple(
            Because(
                item_id=self.names[other],
                title=self.titles[other],
                weight=adds[other],
                together=0 if self.baskets is None else self.baskets.together(other, item),
                words=self._shared(other, item),
            )
            for other in named
        )
        return Reason(text=self._text(item, because), kind=self.kind(item), because=because)

    def _text(self, item: int, because: Sequence[Because]) -> str:
        if not because:
            return WHOLE
        first = because[0]
        if first.item_id == self.names[item]:
            return "because you bought it before"
        text = "because you bought " + " and ".join(other.title or other.item_id for other in because)
        if first.together:
            day = self.baskets is not None and self.baskets.by_day
            text += (
                f"; both were bought on one day {first.together} {'time' if first.together == 1 else 'times'}"
                if day
                else f"; {first.together} customers bought both"
            )
        if first.words:
            text += f" (both: {', '.join(first.words)})"
        return text

    @cached_property
    def _words(self) -> TitleWords:
        return self._known_words or TitleWords.of(self.titles, self.codes[:, 0])

    def _shared(self, one: int, other: int) -> tuple[str, ...]:
        """The rarest words of both titles, in the order of the second one; words of half of the items tell nothing."""
        of_other = title_words(self.titles[other])
        both = set(title_words(self.titles[one])).intersection(of_other)
        counts = {word: self._words.count(word) for word in both}
        telling = [word for word in both if 2 * counts[word] < len(self.titles)]
        rarest = sorted(telling, key=lambda word: (counts[word], word))[:MOST_WORDS]
        return tuple(dict.fromkeys(word for word in of_other if word in rarest))
