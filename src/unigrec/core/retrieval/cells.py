"""Where a catalogue is too large to score it as a whole: the items of the prefixes whose mean vectors score best.

Items with a common prefix are alike, so the nodes of one depth of the prefix tree are the cells of an inverted file. A
search scores the cells by their mean vectors, and then the items of the best cells, until it has read as many items as
it may. Where the restriction leaves no more than these, it reads them all.

Shapes: N items, K cells, B histories, E width of a table, S items read for a history.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unigrec.core.blocks import row_blocks
from unigrec.core.retrieval.prefix_tree import PrefixTree, Restriction

MOST_CELLS = 2**18
SPARE = 8  # times the cells of mean size that are sorted: some of the best are small


class Cells:
    """The nodes of the deepest depth that has no more than `MOST_CELLS`.

    Args:
        tables: (N, E) each. The score of an item is the sum of the products of its rows with one query per table.
        means: (K, E) each, what `means` was for the same tables. Raises ValueError for means of another shape.
    """

    def __init__(self, tree: PrefixTree, tables: Sequence[Tensor], means: Sequence[Tensor] | None = None):
        self.tree, self.tables = tree, tuple(tables)
        nodes = [len(level.code) for level in tree.levels if len(level.code) <= MOST_CELLS]
        self.depth = nodes.index(max(nodes))  # length of a cell's prefix
        self.ranges = tree.levels[self.depth].item_range  # (K + 1,) places in the tree's order
        self.sizes = self.ranges.diff()
        if means is None:
            means = [self._means(table) for table in tables]
        expected = [(len(self.sizes), table.shape[1]) for table in tables]
        if [tuple(part.shape) for part in means] != expected:
            raise ValueError(f"means of cells of the shapes {[tuple(part.shape) for part in means]}, not {expected}")
        self.means = list(means)  # (K, E) each

    def _means(self, table: Tensor) -> Tensor:
        cell_of_place = torch.repeat_interleave(torch.arange(len(self.sizes), device=table.device), self.sizes)
        sums = torch.zeros(len(self.sizes), table.shape[1], device=table.device)
        start = 0
        for rows in row_blocks(table):
            ranks = self.tree.rank[start : start + len(rows)]
            sums.index_add_(0, cell_of_place[ranks], rows.float())
            start += len(rows)
        return sums / self.sizes[:, None]

    @cached_property
    def prefixes(self) -> Tensor:
        """(K, depth) codes that the items of each cell share."""
        return self.tree.codes[self.tree.order[self.ranges[:-1]]][:, : self.depth]

    def nearest(
        self,
        queries: Sequence[Tensor],
        most: int,
        restriction: Restriction | None = None,
        bonus: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """For each history the items read, at most `most`, and their scores: (B, S) twice; -1 and -inf for none.

        queries: (B, E) for each table. Of a restriction, only what is allowed to everybody is looked at. bonus: (K,)
        what is added to the score of a cell, and not to those of its items.
        """
        scores = sum(query @ means.T for query, means in zip(queries, self.means, strict=True))
        assert isinstance(scores, Tensor)
        scores = scores if bonus is None else scores + bonus
        allowed_before = None if restriction is None else restriction.allowed_before
        sizes = self.sizes
        if allowed_before is not None:
            sizes = allowed_before[self.ranges[1:]] - allowed_before[self.ranges[:-1]]
            scores = scores.masked_fill(sizes == 0, float("-inf"))
        wanted = -(-SPARE * most * len(sizes) // max(int(sizes.sum()), 1))
        best = scores.topk(min(wanted, len(sizes)), dim=-1).indices
        items, values = [], []
        for row, cells in enumerate(best):
            items.append(self._items(cells, sizes, most, allowed_before))
            values.append(self._scores(items[-1], [query[row] for query in queries]))
        return pad_sequence(items, True, -1), pad_sequence(values, True, float("-inf"))

    def _items(self, cells: Tensor, sizes: Tensor, most: int, allowed_before: Tensor | None) -> Tensor:
        """(S,) items of the cells, the best cell first. sizes: (K,) allowed items of each cell."""
        before = sizes[cells].cumsum(0) - sizes[cells]
        cells = cells[(before < most) & (sizes[cells] > 0)]  # where little is allowed, most cells are empty
        starts, lengths = self.ranges[cells], self.sizes[cells]
        first = torch.repeat_interleave(starts - (lengths.cumsum(0) - lengths), lengths)
        places = first + torch.arange(len(first), device=first.device)
        if allowed_before is not None:
            places = places[allowed_before[places + 1] > allowed_before[places]]
        return self.tree.order[places[:most]]

    def _scores(self, items: Tensor, queries: Sequence[Tensor]) -> Tensor:
        return sum(
            (table.index_select(0, items).float() @ query for table, query in zip(self.tables, queries, strict=True)),
            start=torch.zeros(len(items), device=items.device),
        )
