"""Constrained beam search over the prefix tree of existing semantic IDs, and the exact scorer that checks it.

Items are sorted by their codes, so every node of the tree is a contiguous range of items; a node's children are
contiguous too. Shapes: B users, W beams, F children considered of each beam, N items, T codes of an identifier.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unigrec.models.recommender import START, Layer, Recommender


class Recommendations(NamedTuple):
    """Ranked items. Where fewer items exist than were asked for, item is -1 and score -inf."""

    items: Tensor  # (B, W) int64 catalogue indices, distinct in a row
    scores: Tensor  # (B, W) summed log-probability, not increasing


class Level(NamedTuple):
    """The nodes at one depth of the tree."""

    first_child: Tensor  # (nodes + 1,) children of node i are first_child[i] .. first_child[i + 1] of the next depth
    code: Tensor  # (nodes,) last code of the node's prefix
    item_range: Tensor  # (nodes + 1,) node i holds sorted items item_range[i] .. item_range[i + 1]
    fanout: int  # most children of a node


class PrefixTree:
    """The prefixes of all semantic IDs as compressed rows, depth by depth."""

    def __init__(self, codes: np.ndarray, device: str | torch.device = "cpu"):
        """codes: (N, T) int64, rows distinct. Raises ValueError when two items share an identifier."""
        items, self.depth = codes.shape
        order = np.lexsort(codes.T[::-1])
        ordered = codes[order]
        changed = np.zeros(items, bool)
        changed[:1] = True
        levels, starts = [], np.zeros(1, np.int64)
        node_starts = [starts]
        for position in range(self.depth):
            changed[1:] |= ordered[1:, position] != ordered[:-1, position]
            starts = np.flatnonzero(changed)
            node_starts.append(starts)
        if len(starts) != items:
            raise ValueError(f"{items - len(starts)} items share a semantic ID with another; resolve collisions first")
        for depth, nodes in enumerate(node_starts):
            below = node_starts[depth + 1] if depth < self.depth else np.empty(0, np.int64)
            first_child = np.r_[np.searchsorted(below, nodes), len(below)]
            levels.append(
                Level(
                    first_child=torch.as_tensor(first_child, device=device),
                    code=torch.as_tensor(ordered[nodes, max(depth - 1, 0)], device=device),
                    item_range=torch.as_tensor(np.r_[nodes, items], device=device),
                    fanout=int(np.diff(first_child).max()),
                )
            )
        self.levels = levels
        self.order = torch.as_tensor(order, device=device)  # (N,) catalogue index of each sorted item
        self.rank = torch.as_tensor(np.argsort(order), device=device)  # (N,) sorted place of each catalogue index

    def __len__(self) -> int:
        return len(self.order)


class Restriction:
    """Which items may be recommended: a list for everybody, and items denied to each user."""

    def __init__(self, tree: PrefixTree, allowed: Tensor | None = None, denied: Tensor | None = None):
        """allowed: (N,) bool by catalogue index. denied: (B, D) catalogue indices, padded with -1; may repeat."""
        self.allowed_before = None
        if allowed is not None:
            counts = allowed[tree.order].long().cumsum(0)
            self.allowed_before = torch.cat([counts.new_zeros(1), counts])  # (N + 1,)
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
        """Whether sorted items low .. high hold one that may be recommended: (B, X) twice -> (B, X)."""
        left = high - low
        if self.allowed_before is not None:
            left = self.allowed_before[high] - self.allowed_before[low]
        if self.denied is not None:
            inside = torch.searchsorted(self.denied, high.contiguous()) - torch.searchsorted(
                self.denied, low.contiguous()
            )
            left = left - inside
        return left > 0


@torch.no_grad()
def beam_search(
    recommender: Recommender,
    tree: PrefixTree,
    source: Tensor,
    mask: Tensor,
    beam: int,
    restriction: Restriction | None = None,
) -> Recommendations:
    """The `beam` best items for each history by summed log-probability.

    A beam follows only prefixes that some permitted item has. One encoder pass a user; beams are query positions of the
    cross-attention, whose keys and values are computed once a user.

    Args:
        source: (B, S, E) embedded history. mask: (B, S).
    """
    memory = recommender.encode(source, mask)
    cache = DecoderCache(recommender, memory, mask)
    B, device = len(memory), memory.device
    nodes = torch.zeros(B, 1, dtype=torch.long, device=device)
    scores = torch.zeros(B, 1, device=device)
    output = cache.step(recommender.token_table.weight[START].expand(B, 1, -1))
    for depth in range(tree.depth):
        level, below = tree.levels[depth], tree.levels[depth + 1]
        log_p = recommender.position_logits(output, depth).float().log_softmax(-1)  # (B, W, codes)
        first, end = level.first_child[nodes], level.first_child[nodes + 1]  # (B, W)
        children = first[..., None] + torch.arange(level.fanout, device=device)  # (B, W, F)
        exists = (children < end[..., None]) & (scores > float("-inf"))[..., None]
        children = children.clamp_max(len(below.code) - 1)
        total = scores[..., None] + log_p.gather(-1, below.code[children])
        total = total.masked_fill(~exists, float("-inf")).flatten(1)  # (B, W * F)
        children = children.flatten(1)
        if restriction is not None:
            alive = restriction.alive(below.item_range[children], below.item_range[children + 1])
            total = total.masked_fill(~alive, float("-inf"))
        scores, picked = total.topk(min(beam, total.shape[1]), dim=-1)
        nodes = children.gather(1, picked)
        if depth + 1 < tree.depth:
            cache.reorder(picked // level.fanout)
            row = recommender.offsets[depth] + below.code[nodes]  # (B, W)
            output = cache.step(recommender.token_table(row))
    items = tree.order[nodes].masked_fill(scores == float("-inf"), -1)
    return Recommendations(items, scores)


class DecoderCache:
    """Keys and values of the decoder: cross-attention's once a user, self-attention's a step at a time."""

    def __init__(self, recommender: Recommender, memory: Tensor, mask: Tensor):
        self.stack = recommender.decoder
        self.layers = [layer for layer in self.stack.layers if isinstance(layer, Layer)]
        self.cross = [layer.cross_keys_values(memory) for layer in self.layers]  # (B, H, S, d_kv)
        self.cross_bias = self.stack.memory_bias(mask, 1, memory.dtype)
        self.keys: list[Tensor] = []  # a (B, W, H, t, d_kv) a layer
        self.values: list[Tensor] = []
        self.steps = 0

    def reorder(self, beams: Tensor) -> None:
        """Continue the beams that were picked: (B, W) index of the old beam."""
        user = torch.arange(len(beams), device=beams.device)[:, None]
        self.keys = [key[user, beams] for key in self.keys]
        self.values = [value[user, beams] for value in self.values]

    def step(self, hidden: Tensor) -> Tensor:
        """One decoder position of every beam: (B, W, E) -> (B, W, E)."""
        bias = self.stack.bias(1, self.steps + 1, hidden.device, first_query=self.steps).to(hidden.dtype)
        B, W, _ = hidden.shape
        for index, layer in enumerate(self.layers):
            attention = layer.self_attention
            normed = layer.self_norm(hidden)
            shape = (B, W, attention.heads, 1, attention.d_kv)
            key, value = attention.key(normed).view(shape), attention.value(normed).view(shape)
            if self.steps:
                key = torch.cat([self.keys[index], key], dim=3)
                value = torch.cat([self.values[index], value], dim=3)
                self.keys[index], self.values[index] = key, value
            else:
                self.keys.append(key)
                self.values.append(value)
            mixed = attention(
                normed.flatten(0, 1)[:, None], key.flatten(0, 1), value.flatten(0, 1), bias
            )  # (B * W, 1, E)
            hidden = hidden + mixed.view(B, W, -1)
            hidden = hidden + layer.cross(hidden, *self.cross[index], self.cross_bias)
            hidden = hidden + layer.feed_forward(hidden)
        self.steps += 1
        return self.stack.norm(hidden)


@torch.no_grad()
def exact_scores(recommender: Recommender, codes: Tensor, source: Tensor, mask: Tensor, chunk: int = 1024) -> Tensor:
    """Log-probability of every item by plain teacher forcing: (N, T) codes -> (B, N). The oracle of the beam search."""
    memory = recommender.encode(source, mask)
    rows = []
    for user_memory, user_mask in zip(memory, mask, strict=True):
        parts = []
        for part in codes.split(chunk):
            expanded = user_memory.expand(len(part), -1, -1), user_mask.expand(len(part), -1)
            output = recommender.decode(*expanded, part)
            score = torch.zeros(len(part), device=codes.device)
            for position in range(codes.shape[1]):
                log_p = recommender.position_logits(output[:, position], position).float().log_softmax(-1)
                score = score + log_p.gather(1, part[:, position : position + 1])[:, 0]
            parts.append(score)
        rows.append(torch.cat(parts))
    return torch.stack(rows)
