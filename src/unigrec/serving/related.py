"""A bundle's answers about items: what is like one, and what goes with several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unigrec.base.errors import UnigrecError
from unigrec.core.retrieval.baskets import Baskets
from unigrec.core.retrieval.related import complements, similar
from unigrec.serving.schema import ComplementAnswer, ComplementItem, SimilarAnswer, SimilarItem

if TYPE_CHECKING:
    from torch import Tensor

    from unigrec.core.retrieval.cells import Cells
    from unigrec.core.retrieval.prefix_tree import PrefixTree


class RelatedItems:
    """Substitutes and complements of a bundle's items.

    Args:
        codes: (N, T). content: (N, D) of length 1, or 0. baskets: None in bundles of earlier versions.
        names, titles: of the items. tree: of the trained ones, the first. cells: of their content, if they are many.
    """

    def __init__(
        self,
        codes: np.ndarray,
        content: Tensor,
        baskets: Baskets | None,
        *,
        names: Sequence[str],
        titles: Sequence[str],
        tree: PrefixTree,
        cells: Cells | None = None,
    ):
        self.codes, self.content, self.baskets = codes, content, baskets
        self.names, self.titles, self.tree, self.cells = names, titles, tree, cells

    def similar(self, item: int, k: int, allowed: np.ndarray | None) -> SimilarAnswer:
        """The k items most like one, by its catalogue index. allowed: (N,) bool."""
        found = similar(self.tree, self.codes, self.content, item, k, allowed)
        rows = zip(*(part.tolist() for part in found), strict=True)
        return SimilarAnswer(
            items=tuple(
                SimilarItem(**self._named(index), score=score, shared_codes=shared) for index, shared, score in rows
            )
        )

    def complement(self, basket: Sequence[int], k: int, allowed: np.ndarray | None, unknown: int) -> ComplementAnswer:
        """The k items that go best with items of other kinds, by their catalogue indices. allowed: (N,) bool.

        Raises UnigrecError for a bundle of an earlier version.
        """
        if self.baskets is None:
            raise UnigrecError("this bundle, of an earlier version, holds no baskets; run the pipeline again")
        distinct = list(dict.fromkeys(basket))
        asked = np.array(distinct, np.int64)
        found = complements(self.baskets, self.codes, self.content, asked, k, allowed, self.cells)
        ids = [self.names[item] for item in distinct]
        return ComplementAnswer(
            items=tuple(
                ComplementItem(
                    **self._named(index),
                    score=score,
                    together={name: count for name, count in zip(ids, counts, strict=True) if count},
                )
                for index, score, counts in zip(
                    found.items.tolist(), found.scores.tolist(), found.counts.tolist(), strict=True
                )
            ),
            unknown=unknown,
            by_day=self.baskets.by_day,
            stand_ins=tuple(name for name, replaced in zip(ids, found.stand_ins, strict=True) if replaced),
        )

    def _named(self, index: int) -> dict[str, Any]:
        return {"item_id": self.names[index], "title": self.titles[index]}
