"""Constrained beam search over the prefix tree of existing semantic IDs, and the exact scorer that checks it.

Items are sorted by their codes, so every node of the tree is a contiguous range of items; a node's children are
contiguous too. Shapes: B users, W beams, C children of a user's beams, N items, K codes of a level, T codes of an
identifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unigrec.core.models.cpu.operators import EPS, plain_product
from unigrec.core.models.recommender import START, Attention, Layer, Recommender

CPU_BATCH = 64  # users: what a step computes stays near the processor, and products are large enough


def search_batch(device: torch.device, most: int) -> int:
    """How many users are best searched for together on a device, where `most` are allowed."""
    return min(CPU_BATCH, most) if device.type == "cpu" else most


class Recommendations(NamedTuple):
    """Ranked items: W as asked for, or fewer where the catalogue has fewer. What is not permitted is -1, score -inf."""

    items: Tensor  # (B, W) int64 catalogue indices, distinct in a row
    scores: Tensor  # (B, W) summed log-probability, not increasing


class Level(NamedTuple):
    """The nodes at one depth of the tree."""

    first_child: Tensor  # (nodes + 1,) children of node i are first_child[i] .. first_child[i + 1] of the next depth
    code: Tensor  # (nodes,) last code of the node's prefix
    item_range: Tensor  # (nodes + 1,) node i holds sorted items item_range[i] .. item_range[i + 1]
    most_children: np.ndarray  # (nodes,) how many children the one, two, three ... nodes with the most have together


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
                    most_children=np.cumsum(np.sort(np.diff(first_child))[::-1]),
                )
            )
        self.levels = levels
        self.order = torch.as_tensor(order, device=device)  # (N,) catalogue index of each sorted item
        rank = np.empty_like(order)
        rank[order] = np.arange(items)
        self.rank = torch.as_tensor(rank, device=device)  # (N,) sorted place of each catalogue index

    def __len__(self) -> int:
        return len(self.order)

    def children(self, depth: int, nodes: Tensor, alive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The children of the distinct nodes (B, W) that are `alive`, laid end to end.

        A row has C places: as many as any W nodes of this depth need, which is known beforehand. A node with many
        children so costs its own places and no other node's.

        Returns:
            (B, C) three times: the child, its parent as an index into W, and whether the place is taken.
        """
        level, width = self.levels[depth], nodes.shape[1]
        place = torch.arange(int(level.most_children[min(width, len(level.most_children)) - 1]), device=nodes.device)
        first = level.first_child[nodes]
        counts = (level.first_child[nodes + 1] - first).masked_fill(~alive, 0)
        ends = counts.cumsum(1)
        parent = torch.searchsorted(ends, place.expand(len(nodes), -1).contiguous(), right=True)
        exists = parent < width
        parent = parent.clamp_max(width - 1)
        child = (first - ends + counts).gather(1, parent) + place
        return child.masked_fill(~exists, 0), parent, exists


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


@torch.inference_mode()
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
    return beam_searches(recommender, tree, source, mask, beam, [restriction])[0]


@torch.inference_mode()
def beam_searches(
    recommender: Recommender,
    tree: PrefixTree,
    source: Tensor,
    mask: Tensor,
    beam: int,
    restrictions: Sequence[Restriction | None],
) -> list[Recommendations]:
    """What `beam_search` returns for each of several restrictions, at little more than the cost of one.

    The searches share the encoder pass, and each prefix that several of them follow is decoded once: W is the number of
    different prefixes that they follow together.
    """
    memory = recommender.encode(source, mask)
    cache = DecoderCache(recommender, memory, mask, queries=1 + beam * (tree.depth - 1))
    B, device = len(memory), memory.device
    nodes = torch.zeros(B, 1, dtype=torch.long, device=device)
    scores = torch.zeros(B, 1, device=device)
    followed = [torch.ones_like(nodes, dtype=torch.bool)] * len(restrictions)  # (B, W) by each search
    output = cache.step(recommender.token_table.weight[START].expand(B, 1, -1))
    for depth in range(tree.depth):
        below = tree.levels[depth + 1]
        log_p = recommender.position_logits(output, depth).float().log_softmax(-1)  # (B, W, K)
        children, parent, exists = tree.children(depth, nodes, scores > float("-inf"))  # (B, C) each
        code = parent * log_p.shape[-1] + below.code[children]
        total = scores.gather(1, parent) + log_p.flatten(1).gather(1, code)
        kept = []
        for restriction, mine in zip(restrictions, followed, strict=True):
            open_to = exists & mine.gather(1, parent)
            if restriction is not None:
                open_to &= restriction.alive(below.item_range[children], below.item_range[children + 1])
            found = total.masked_fill(~open_to, float("-inf"))
            kept.append(found.topk(min(beam, found.shape[1]), dim=-1))
        if depth + 1 < tree.depth:
            scores, picked, followed = together(total, kept)
            nodes = children.gather(1, picked)
            cache.reorder(parent.gather(1, picked))
            row = recommender.offsets[depth] + below.code[nodes]  # (B, W)
            output = cache.step(recommender.token_table(row))
    ranked = [(tree.order[children.gather(1, picked)], scores) for scores, picked in kept]
    return [Recommendations(items.masked_fill(scores == float("-inf"), -1), scores) for items, scores in ranked]


def together(total: Tensor, kept: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The places that any search keeps, each once, the best first.

    Args:
        total: (B, C) scores. kept: of each search, (B, w) scores, -inf where it keeps nothing more, and their places.

    Returns:
        (B, W) score and place of what is kept, score -inf where a user has less than W; and for each search (B, W)
        whether it keeps that.
    """
    if len(kept) == 1:
        ((scores, picked),) = kept
        return scores, picked, [scores > float("-inf")]
    nothing = torch.zeros_like(total, dtype=torch.bool)
    marks = torch.stack([nothing.scatter(1, picked, scores > float("-inf")) for scores, picked in kept])  # (R, B, C)
    anywhere = marks.any(0)
    width = max(int(anywhere.sum(1).max()), 1)
    scores, picked = total.masked_fill(~anywhere, float("-inf")).topk(width, dim=-1)
    return scores, picked, [mark.gather(1, picked) for mark in marks]


class LayerWeights(NamedTuple):
    """What a decoder layer multiplies with. For one user, products are so small that calls of modules would show."""

    self_norm: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    cross_norm: Tensor
    feed_norm: Tensor
    feed_in: Tensor
    feed_out: Tensor

    @classmethod
    def of(cls, layer: Layer) -> LayerWeights:
        own = layer.self_attention
        assert layer.cross_norm is not None
        modules = (
            *(layer.self_norm, own.query, own.key, own.value, own.out),
            *(layer.cross_norm, layer.feed_norm, layer.feed_in, layer.feed_out),
        )
        return cls(*(module.weight for module in modules))


LEAST_TOKENS = 16  # softmax over fewer takes torch several times as long: it works on whole vectors


class ReadsByHead:
    """Cross-attention of one layer as it is written down: queries are made, and read keys and values (B, H, S, d)."""

    def __init__(self, cross: Attention, memory: Tensor, bias: Tensor):
        """memory (B, S, E); bias broadcastable to (B, H, 1, S)."""
        self.query, self.out, self.bias = cross.query.weight, cross.out.weight, bias
        self.keys_values = cross.keys_values(memory)
        self.split = cross.split

    def onto(self, hidden: Tensor, normed: Tensor) -> Tensor:
        """hidden + attention(normed): (B, W, E) twice -> (B, W, E)."""
        query = self.split(plain_product(normed, self.query))  # (B, H, W, d)
        mixed = F.scaled_dot_product_attention(query, *self.keys_values, attn_mask=self.bias, scale=1.0)
        return plain_product(mixed.transpose(1, 2).flatten(-2), self.out).add_(hidden)


class ReadsFolded:
    """The same attention where many queries read few tokens: what multiplies a query is folded into what it reads.

    q_h k_h = x (Q_h' K_h y), and sum_h O_h V_h y is what the token y adds to the residual. Made once a user, these turn
    a step's two products, and H small ones a user, into two products a user with all heads together.
    """

    def __init__(self, cross: Attention, memory: Tensor, bias: Tensor):
        """memory (B, S, E); bias broadcastable to (B, H, 1, S)."""
        missing = max(LEAST_TOKENS - memory.shape[1], 0)
        memory, bias = F.pad(memory, (0, 0, 0, missing)), F.pad(bias, (0, missing), value=float("-inf"))
        B, S, E = memory.shape
        heads = cross.heads
        query, key, value = (part.weight.view(heads, -1, E) for part in (cross.query, cross.key, cross.value))
        out = cross.out.weight.view(E, heads, -1).permute(1, 0, 2)  # (H, E, d)
        folded = torch.cat([query.mT @ key, out @ value]).flatten(0, 1)  # (2 * H * E, E)
        read = plain_product(memory, folded).view(B, S, 2, heads, E).permute(2, 0, 3, 1, 4)  # (2, B, H, S, E)
        self.keys, self.values = read.reshape(2, B, heads * S, E)
        self.bias = bias.expand(-1, heads, -1, -1).reshape(B, 1, heads * S)
        self.heads = heads

    def onto(self, hidden: Tensor, normed: Tensor) -> Tensor:
        """hidden + attention(normed): (B, W, E) twice -> (B, W, E)."""
        scores = torch.baddbmm(self.bias, normed, self.keys.mT).unflatten(-1, (self.heads, -1))  # (B, W, H, S)
        return torch.baddbmm(hidden, scores.softmax(-1).flatten(-2), self.values)


def reads_of(cross: Attention | None, memory: Tensor, bias: Tensor, queries: int) -> ReadsByHead | ReadsFolded:
    """Whichever takes fewer multiplications for that many queries a user."""
    assert cross is not None
    B, S, E = memory.shape
    inner = cross.heads * cross.d_kv
    by_head = B * (queries * 2 * inner * (E + S) + S * 2 * inner * E)
    folded = B * (queries * 2 * cross.heads * S * E + S * 2 * cross.heads * E * E) + 2 * inner * E * E
    return ReadsFolded(cross, memory, bias) if folded < by_head else ReadsByHead(cross, memory, bias)


class DecoderCache:
    """Keys and values of the decoder: cross-attention's once a user, self-attention's a step at a time."""

    def __init__(self, recommender: Recommender, memory: Tensor, mask: Tensor, queries: int = 1):
        """memory (B, S, E), mask (B, S). queries: positions that will be decoded for each user, all steps together."""
        config, stack = recommender.config, recommender.decoder
        layers = [layer for layer in stack.layers if isinstance(layer, Layer)]
        self.heads, self.d_kv, self.norm = config.heads, config.d_kv, stack.norm
        self.weights = [LayerWeights.of(layer) for layer in layers]
        bias = stack.memory_bias(mask, 1, memory.dtype)
        self.cross = [reads_of(layer.cross_attention, memory, bias, queries) for layer in layers]
        positions = len(config.code_sizes)
        bias = stack.bias(positions, positions, memory.device)[0]  # (H, positions, positions)
        self.bias = bias.movedim(0, -1).to(memory.dtype)  # (query, key, H)
        # A (B, W, H, d_kv) for each step in each layer. All beams of a user share the first step, so there W is 1.
        self.keys: list[list[Tensor]] = [[] for _ in layers]
        self.values: list[list[Tensor]] = [[] for _ in layers]

    def reorder(self, beams: Tensor) -> None:
        """Continue the beams that were picked: (B, W) index of the old beam."""
        B, old = len(beams), self.keys[0][-1].shape[1]
        rows = (beams + old * torch.arange(B, device=beams.device)[:, None]).flatten()
        for past in (*self.keys, *self.values):
            past[1:] = [part.flatten(0, 1).index_select(0, rows).unflatten(0, beams.shape) for part in past[1:]]

    def step(self, hidden: Tensor) -> Tensor:
        """One decoder position of every beam: (B, W, E) -> (B, W, E)."""
        shape = (*hidden.shape[:2], self.heads, self.d_kv)
        position = len(self.keys[0])
        bias = self.bias[position, : position + 1, None, None]  # (position + 1, 1, 1, H)
        for layer, keys, values, cross in zip(self.weights, self.keys, self.values, self.cross, strict=True):
            normed = self.normed(hidden, layer.self_norm)
            keys.append(plain_product(normed, layer.key).view(shape))
            values.append(plain_product(normed, layer.value).view(shape))
            mixed = attend_own(plain_product(normed, layer.query).view(shape), keys, values, bias)
            hidden = plain_product(mixed.flatten(-2), layer.out).add_(hidden)
            hidden = cross.onto(hidden, self.normed(hidden, layer.cross_norm))
            inner = plain_product(self.normed(hidden, layer.feed_norm), layer.feed_in, "relu")
            hidden = plain_product(inner, layer.feed_out).add_(hidden)
        return self.norm(hidden)

    def normed(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(hidden, weight.shape, weight, EPS)


def attend_own(query: Tensor, keys: list[Tensor], values: list[Tensor], bias: Tensor) -> Tensor:
    """Attention of every beam over its own few steps, for which products and sums are faster than a general operator.

    query (B, W, H, d); keys and values a (B, W or 1, H, d) for each of t steps; bias (t, 1, 1, H) -> (B, W, H, d).
    """
    scores = torch.stack([torch.linalg.vecdot(query, key) for key in keys])  # (t, B, W, H)
    weights = (scores + bias).softmax(0).unsqueeze(-1)
    mixed = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        mixed = torch.addcmul(mixed, weight, value)
    return mixed


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
