"""A request's rules over a bundle's catalogue: what may be recommended, how many of a group, what is preferred.

Shapes: N items, G groups of an item.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from unigrec.base.errors import UnigrecError
from unigrec.core.retrieval.selection import Quota

if TYPE_CHECKING:
    from unigrec.serving.filters import CatalogueFilter
    from unigrec.serving.schema import Diversity, NewShare
    from unigrec.serving.texts import TextIndex

FIRST_CODE = "first code"  # in place of a column: items of one kind, by the identifiers
FIRST_SEEN = "first_seen"  # column of the date from which an item is there
SECONDS_PER_DAY = 86_400


class Rules:
    """Compiles what a request says about items to masks, quotas and weights.

    Args:
        index_of: place of each item id. codes: (N, T). until: unix seconds of the newest interaction.
        withdrawn: places of items that are never recommended; None: there are none.
    """

    def __init__(
        self,
        filter: CatalogueFilter,
        index_of: TextIndex,
        codes: np.ndarray,
        until: int,
        withdrawn: Tensor | None = None,
    ):
        self.filter, self.index_of, self.codes, self.until = filter, index_of, codes, until
        self.withdrawn = withdrawn if withdrawn is not None and len(withdrawn) else None
        self._groups: dict[str, np.ndarray] = {}

    def allowed(
        self, allow: Collection[str] | None, deny: Collection[str] | None, expression: str | None
    ) -> Tensor | None:
        """(N,) bool, or None if every item is allowed. Raises UnigrecError if none is."""
        if allow is None and not deny and expression is None and self.withdrawn is None:
            return None
        allowed = torch.full((len(self.index_of),), allow is None)
        for given, value in ((allow, True), (deny, False)):
            places = self.index_of.places(given or ())
            allowed[torch.from_numpy(places[places >= 0])] = value
        if expression is not None:
            allowed &= torch.from_numpy(self.filter.mask(expression))
        if self.withdrawn is not None:
            allowed[self.withdrawn] = False
        if not allowed.any():
            raise UnigrecError("the allow-list, the deny-list and the filter leave no item of the catalogue")
        return allowed

    def quotas(self, k: int, diversity: Diversity | None, new_share: NewShare | None) -> list[Quota]:
        """Raises UnigrecError for a column that is not there, or a share that k places cannot hold."""
        quotas = [] if diversity is None else [Quota(self.groups(diversity.per), diversity.at_most)]
        if new_share is not None:
            if new_share.at_least > k:
                raise UnigrecError(f"new_share: at least {new_share.at_least} of k = {k} items; lower it, or raise k")
            new = self.new_items(new_share.days)
            if new_share.at_most is not None:
                quotas.append(Quota(np.where(new, 0, -1)[:, None], new_share.at_most))
            if new_share.at_least:  # of the k places, so many are not for older items, unless newer ones are lacking
                quotas.append(Quota(np.where(new, -1, 0)[:, None], k - new_share.at_least, yields=True))
        return quotas

    def new_items(self, days: float) -> np.ndarray:
        """(N,) bool: seen first less than `days` days before the newest interaction, or not seen yet."""
        if FIRST_SEEN not in self.filter.columns:
            raise UnigrecError(
                "new_share: this bundle does not know since when it has an item: the log tells no days, or the bundle "
                "is of an earlier version; name a column of dates in serve.date and run the pipeline again"
            )
        seen = self.filter.column(FIRST_SEEN, "new_share").cast(pa.timestamp("s")).cast(pa.int64())
        return pc.fill_null(seen, self.until).to_numpy() > self.until - days * SECONDS_PER_DAY

    def groups(self, per: str) -> np.ndarray:
        """(N, G) the groups of each item: the values of a column, the entries of a list; -1 for none."""
        if per not in self._groups:
            self._groups[per] = (
                self.codes[:, :1] if per == FIRST_CODE else _numbered(self.filter.column(per, "diversity"))
            )
        return self._groups[per]

    def boost(self, boost: Mapping[str, float] | None) -> Tensor | None:
        """(N,) what is added to each item's score; None if nothing is."""
        if not boost:
            return None
        weights = torch.zeros(len(self.codes))
        for expression, weight in boost.items():
            weights[torch.from_numpy(self.filter.mask(expression))] += weight
        return weights


def _numbered(values: pa.ChunkedArray) -> np.ndarray:
    """(N, G) a number per distinct value; the entries of lists side by side, each once per item."""
    column = values.combine_chunks()
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return _numbers(column)[:, None]
    numbers, rows = _numbers(pc.list_flatten(column)), pc.list_parent_indices(column).to_numpy()
    pairs = np.unique(np.stack([rows, numbers])[:, numbers >= 0], axis=1)
    sizes = np.bincount(pairs[0], minlength=len(column))
    groups = np.full((len(column), max(int(sizes.max(initial=0)), 1)), -1)
    groups[pairs[0], np.arange(pairs.shape[1]) - np.repeat(np.cumsum(sizes) - sizes, sizes)] = pairs[1]
    return groups


def _numbers(values: pa.Array) -> np.ndarray:
    return pc.fill_null(values.dictionary_encode().indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
