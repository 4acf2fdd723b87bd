"""The prefix tree of the semantic IDs, and which of its items may be recommended.

Items are sorted by their codes, so that each node of the tree is a contiguous range of items, and its children are
contiguous too. Shapes: B users, W nodes per user, C children of these, N items, T codes of an identifier.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.core.blocks import are_starts


class Level(NamedTuple):
    """The nodes at one depth of the tree."""

    first_child: Tensor  # (nodes + 1,) children of node i are first_child[i] .. first_child[i + 1] of the next depth
    code: Tensor  # (nodes,) last code of the node's prefix
    item_range: Tensor  # (nodes + 1,) node i holds sorted items item_range[i] .. item_range[i + 1]
    most_children: np.ndarray  # (nodes,) children that the one, two, three ... largest nodes have in total


NODES = Level._fields


class PrefixTree:
    """The prefixes of all semantic IDs, depth by depth, as compressed rows."""

    def __init__(
        self, codes: np.ndarray, device: str | torch.device = "cpu", stored: Mapping[str, Tensor] | None = None
    ):
        """codes: (N, T) int64, rows distinct. stored: the `tensors` of a tree of these codes.

        Raises ValueError when two items share an identifier.
        """
        self.depth = codes.shape[1]
        if stored is None:
            stored = _sorted_nodes(codes)
        self.levels = []
        for depth in range(self.depth):
            first_child, code, item_range, most_children = (stored[f"{name}_{depth}"] for name in NODES)
            first_child, code, item_range = (part.to(device) for part in (first_child, code, item_range))
            self.levels.append(Level(first_child, code, item_range, most_children.numpy()))
        self.levels.append(_leaves(stored[f"code_{self.depth}"].to(device)))
        self.order = stored["order"].to(device)  # (N,) catalogue index of each sorted item
        self.rank = stored["rank"].to(device)  # (N,) sorted place of each catalogue index
        self.codes = torch.as_tensor(codes, device=device)  # (N, T) in catalogue order

    def tensors(self) -> dict[str, Tensor]:
        """What another process needs to have the tree without sorting: all but the leaves, which take no time."""
        found = {"order": self.order, "rank": self.rank, f"code_{self.depth}": self.levels[-1].code}
        for depth, level in enumerate(self.levels[:-1]):
            found |= {f"{name}_{depth}": torch.as_tensor(getattr(level, name)) for name in NODES}
        return found

    def __len__(self) -> int:
        return len(self.order)

    def under(self, prefix: Sequence[int]) -> Tensor:
        """The catalogue indices (n,) of the items whose codes begin so, in the tree's order; none if there are none."""
        node = 0
        for depth, code in enumerate(prefix):
            first, end = self.levels[depth].first_child[node : node + 2].tolist()
            codes = self.levels[depth + 1].code[first:end]
            node = first + int(torch.searchsorted(codes.contiguous(), code))
            if node == end or self.levels[depth + 1].code[node] != code:
                return self.order[:0]
        start, end = self.levels[len(prefix)].item_range[node : node + 2].tolist()
        return self.order[start:end]

    def parents(self, leaves: Tensor) -> Tensor:
        """The node of the last depth but one above each leaf (...), a place in `order`."""
        return torch.searchsorted(self.levels[-2].item_range, leaves.contiguous(), right=True) - 1

    def children(self, depth: int, nodes: Tensor, alive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The children of the distinct nodes (B, W) that are `alive`, laid end to end.

        A row has C slots: as many as any W nodes of this depth can need, which is known beforehand. A node with many
        children therefore takes slots only for itself; other nodes are not padded to its size.

        Returns:
            (B, C) three times: the child, its parent as an index into W, and whether the slot is taken.
        """
        level, width = self.levels[depth], nodes.shape[1]
        slots = int(level.most_children[min(width, len(level.most_children)) - 1])
        slot = torch.arange(slots, device=nodes.device)
        first = level.first_child[nodes]
        counts = (level.first_child[nodes + 1] - first).masked_fill(~alive, 0)
        # A slot belongs to the first node whose children end after it; past the last node it is free.
        ends = counts.cumsum(1)
        parent = torch.searchsorted(ends, slot.expand(len(nodes), -1).contiguous(), right=True)
        exists = parent < width
        parent = parent.clamp_max(width - 1)
        # The first child of a node lies in the slot `ends - counts`.
        child = (first - ends + counts).gather(1, parent) + slot
        return child.masked_fill(~exists, 0), parent, exists


def _sorted_nodes(codes: np.ndarray) -> dict[str, Tensor]:
    """What `PrefixTree.tensors` returns. Raises ValueError as `PrefixTree`."""
    items, depths = codes.shape
    order = sorted_rows(codes)
    ordered = codes[order]
    changed = np.zeros(items, bool)
    changed[:1] = True
    starts = np.zeros(1, np.int64)
    node_starts = [starts]
    for position in range(depths):
        changed[1:] |= ordered[1:, position] != ordered[:-1, position]
        starts = np.flatnonzero(changed)
        node_starts.append(starts)
    if len(starts) != items:
        raise ValueError(f"{items - len(starts)} items share a semantic ID with another; resolve collisions first")
    rank = np.empty_like(order)
    rank[order] = np.arange(items)
    found = {"order": order, "rank": rank, f"code_{depths}": ordered[:, -1].copy()}
    for depth, (nodes, below) in enumerate(pairwise(node_starts)):
        first_child = np.r_[np.searchsorted(below, nodes), len(below)]
        found |= {
            f"first_child_{depth}": first_child,
            f"code_{depth}": ordered[nodes, max(depth - 1, 0)],
            f"item_range_{depth}": np.r_[nodes, items],
            f"most_children_{depth}": np.cumsum(np.sort(np.diff(first_child))[::-1]),
        }
    return {name: torch.as_tensor(part) for name, part in found.items()}


def _leaves(code: Tensor) -> Level:
    """The deepest level, whose nodes are the sorted items. code: (N,)."""
    items, device = len(code), code.device
    nothing = torch.zeros(items + 1, dtype=torch.int64, device=device)
    return Level(nothing, code, torch.arange(items + 1, device=device), np.zeros(items, np.int64))


def check_tree(stored: Mapping[str, Tensor], codes: np.ndarray) -> None:
    """Of the `PrefixTree.tensors` in a file that is not trusted: whether each number leads to a place that exists.

    Whether it is the tree of these codes is not looked at: to know it takes as long as to build one. Raises ValueError.
    """
    items, depths = codes.shape
    names = ["order", "rank", f"code_{depths}", *(f"{name}_{depth}" for depth in range(depths) for name in NODES)]
    whole = all(name in stored and stored[name].dtype == torch.int64 and stored[name].dim() == 1 for name in names)
    if not whole:
        raise ValueError(f"a stored prefix tree has {', '.join(names)}, int64")
    sizes = [len(stored[f"code_{depth}"]) for depth in range(depths + 1)]
    fits = sizes[0] == 1 and sizes[-1] == items == len(stored["order"]) == len(stored["rank"])
    for depth, (size, below) in enumerate(pairwise(sizes)):
        first_child, _, item_range, most_children = (stored[f"{name}_{depth}"] for name in NODES)
        fits = fits and _divides(first_child, size, below) and _divides(item_range, size, items)
        fits = fits and _divides(torch.cat([torch.zeros(1, dtype=torch.int64), most_children]), size, below)
    tops = [0, *codes.max(0, initial=0).tolist()]
    fits = fits and all(_below(stored[f"code_{depth}"], top + 1) for depth, top in enumerate(tops) if depth)
    fits = fits and _below(stored["order"], items) and _below(stored["rank"], items)
    if not (fits and torch.equal(stored["order"][stored["rank"]], torch.arange(items))):
        raise ValueError(f"the stored prefix tree is none of {items} items")


def _divides(starts: Tensor, parts: int, whole: int) -> bool:
    """Whether these are the starts of so many ranges, none empty, and the end of the last: the whole."""
    return are_starts(starts, parts, whole) and bool((starts.diff() > 0).all())


def _below(values: Tensor, bound: int) -> bool:
    return not len(values) or 0 <= int(values.min()) <= int(values.max()) < bound


def sorted_rows(codes: np.ndarray) -> np.ndarray:
    """(N,) the order of the rows of codes (N, T), none below 0; of equal rows in no order."""
    sizes = [int(level.max(initial=0)) + 1 for level in codes.T]
    if math.prod(sizes) > np.iinfo(np.int64).max:
        return np.lexsort(codes.T[::-1])
    packed = np.zeros(len(codes), np.int64)  # to sort numbers is many times faster than to sort rows
    for level, size in zip(codes.T, sizes, strict=True):
        packed = packed * size + level
    return np.argsort(packed)


class Restriction:
    """Which items may be recommended: those allowed to everybody, less those denied to each user.

    Args:
        allowed: (N,) bool by catalogue index.
        denied: (B, D) catalogue indices, padded with -1; may repeat.
        only: (B, M) the only items for each user, in place of the other two; padded with -1; may repeat.
    """

    def __init__(
        self,
        tree: PrefixTree,
        allowed: Tensor | None = None,
        denied: Tensor | None = None,
        only: Tensor | None = None,
    ):
        self._allowed, self._denied, self._only, self._items = allowed, denied, only, len(tree)
        self._rank = tree.rank
        self.only = None
        if only is not None:
            self.only = torch.where(only >= 0, tree.rank[only.clamp_min(0)], len(tree)).sort(-1).values.contiguous()
        self.allowed_before = None
        if allowed is not None:
            marks = torch.zeros(len(tree) + 1, dtype=torch.int64, device=allowed.device)
            marks[tree.rank[allowed] + 1] = 1  # where little is allowed, little is looked up
            self.allowed_before = marks.cumsum(0)  # (N + 1,)
        self.denied = None
        if denied is not None:
            places = torch.where(denied >= 0, tree.rank[denied.clamp_min(0)], len(tree))
            if allowed is not None:
                places = torch.where((denied >= 0) & allowed[denied.clamp_min(0)], places, len(tree))
            places = places.sort(-1).values
            repeat = torch.zeros_like(places, dtype=torch.bool)
            repeat[:, 1:] = places[:, 1:] == places[:, :-1]
            self.denied = places.masked_fill(repeat, len(tree)).sort(-1).values.contiguous()

    def alive(self, low: Tensor, high: Tensor) -> Tensor:
        """Whether one of the sorted items low .. high may be recommended: (B, X) twice -> (B, X)."""
        if self.only is not None:
            return torch.searchsorted(self.only, high.contiguous()) > torch.searchsorted(self.only, low.contiguous())
        left = high - low
        if self.allowed_before is not None:
            left = self.allowed_before[high] - self.allowed_before[low]
        if self.denied is not None:
            inside = torch.searchsorted(self.denied, high.contiguous()) - torch.searchsorted(
                self.denied, low.contiguous()
            )
            left = left - inside
        return left > 0

    def permits(self, items: Tensor) -> Tensor:
        """(B, X) whether each of these items, catalogue indices (B, X), may be recommended; false for -1."""
        places = self._rank[items.clamp_min(0)]
        return self.alive(places, places + 1) & (items >= 0)

    def permitted(self, rows: int, first: int = 0) -> Tensor:
        """(rows, N) whether each item, by catalogue index, may be recommended to some users, from `first` on."""
        users = slice(first, first + rows)
        device = next(part.device for part in (self._allowed, self._denied, self._only) if part is not None)
        result = torch.ones(rows, self._items + 1, dtype=torch.bool, device=device)
        if self._only is not None:
            only = self._only[users]
            return (~result).scatter_(1, torch.where(only >= 0, only, self._items), True)[:, :-1]
        if self._allowed is not None:
            result[:, :-1] = self._allowed
        if self._denied is not None:
            denied = self._denied[users]
            result.scatter_(1, torch.where(denied >= 0, denied, self._items), False)
        return result[:, :-1]
