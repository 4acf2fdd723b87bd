"""Constrained beam search over the prefix tree of existing semantic IDs, and the exact scorer that checks it.

Shapes: B users, S tokens of a history, E d_model, W beams, C children of a user's beams, N items, K codes of a level,
T codes of an identifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unigrec.core.models.inference import InferenceRecommender
from unigrec.core.models.recommender import START, Recommender
from unigrec.core.retrieval.decoder_cache import DecoderCache
from unigrec.core.retrieval.prefix_tree import PrefixTree, Restriction


class Repeats(NamedTuple):
    """What a recommender with a repeat bias adds to the items of each history."""

    items: Tensor  # (B, n) catalogue indices, padded with any item
    values: Tensor  # (B, n), 0 where a place adds nothing

    @classmethod
    def of(cls, recommender: Recommender, items: Tensor, lengths: Tensor) -> Repeats | None:
        """Of histories (B, n), padded on the right by lengths (B,); None without a repeat bias."""
        if recommender.repeat_bias is None:
            return None
        return cls(items, recommender.repeat_bias(items, lengths[:, None])[:, 0])


class BeamResult(NamedTuple):
    """Ranked items, W at most. A place without a permitted item holds -1 and score -inf."""

    items: Tensor  # (B, W) int64 catalogue indices, distinct in a row
    scores: Tensor  # (B, W) summed log-probability, not increasing


@torch.inference_mode()
def beam_search(
    recommender: Recommender,
    tree: PrefixTree,
    source: Tensor,
    mask: Tensor,
    beam: int,
    restriction: Restriction | None = None,
    repeats: Repeats | None = None,
) -> BeamResult:
    """The `beam` best items for each history by summed log-probability.

    For one search by a network that still changes: it is arranged for inference first. A beam follows only prefixes
    that some permitted item has. Each history is encoded once, and the keys and values of the cross-attention are
    computed once per history: its beams are query positions.

    Args:
        source: (B, S, E) embedded history. mask: (B, S). repeats: what the last code's logits get for the history's
            items.
    """
    return beam_searches(InferenceRecommender(recommender), tree, source, mask, beam, [restriction], repeats=repeats)[0]


@torch.inference_mode()
def beam_searches(
    network: InferenceRecommender,
    tree: PrefixTree,
    source: Tensor,
    mask: Tensor,
    beam: int | Sequence[int],
    restrictions: Sequence[Restriction | None],
    repeats: Repeats | None = None,
    above: Sequence[float] | None = None,
) -> list[BeamResult]:
    """What `beam_search` returns for each of several restrictions, at little more than the cost of one.

    beam: one width for all searches, or one for each. They share the encoder pass. A prefix that several of them follow
    is decoded once: W is the number of different prefixes in all searches.

    above: a log-probability for each search, which then finds only items above it. No item is likelier than its prefix,
    so prefixes that are not above it are not followed.
    """
    recommender, memory = network.recommender, network.encode(source, mask)
    beams = [beam] * len(restrictions) if isinstance(beam, int) else beam
    bounds = above or [float("-inf")] * len(restrictions)
    cache = DecoderCache(network, memory, mask, queries=1 + max(beams) * (tree.depth - 1))
    B, device = len(memory), memory.device
    nodes = torch.zeros(B, 1, dtype=torch.long, device=device)
    scores = torch.zeros(B, 1, device=device)
    in_search = [torch.ones_like(nodes, dtype=torch.bool)] * len(restrictions)  # (B, W) per search: does it follow it?
    output = cache.step(recommender.token_table.weight[START].expand(B, 1, -1))
    for depth in range(tree.depth):
        # Score every child of every beam.
        below = tree.levels[depth + 1]
        logits = network.position_logits(output, depth).float()  # (B, W, K)
        if repeats is not None and depth + 1 == tree.depth:
            logits = add_at_leaves(logits, tree, nodes, repeats)
        log_p = logits.log_softmax(-1)
        children, parent, exists = tree.children(depth, nodes, scores > float("-inf"))  # (B, C) each
        code = parent * log_p.shape[-1] + below.code[children]
        total = scores.gather(1, parent) + log_p.flatten(1).gather(1, code)
        # Each search keeps its best children among those that lead to an item it permits.
        kept = []
        for width, restriction, followed, bound in zip(beams, restrictions, in_search, bounds, strict=True):
            permitted = exists & followed.gather(1, parent) & (total > bound)
            if restriction is not None:
                permitted &= restriction.alive(below.item_range[children], below.item_range[children + 1])
            found = total.masked_fill(~permitted, float("-inf"))
            kept.append(found.topk(min(width, found.shape[1]), dim=-1))
        # Decode one more code of what any search keeps.
        if depth + 1 < tree.depth:
            scores, picked, in_search = merge_beams(total, kept)
            nodes = children.gather(1, picked)
            cache.reorder(parent.gather(1, picked))
            row = recommender.offsets[depth] + below.code[nodes]  # (B, W)
            output = cache.step(recommender.token_table(row))
    ranked = [(tree.order[children.gather(1, picked)], scores) for scores, picked in kept]
    return [BeamResult(items.masked_fill(scores == float("-inf"), -1), scores) for items, scores in ranked]


def add_at_leaves(logits: Tensor, tree: PrefixTree, nodes: Tensor, repeats: Repeats) -> Tensor:
    """Logits of the last code below each node, with the bonus of the history's items among its leaves.

    logits (B, W, K). nodes (B, W), of the last depth but one.
    """
    leaves = tree.rank[repeats.items]  # (B, n)
    below = tree.parents(leaves)[:, None] == nodes[:, :, None]  # (B, W, n)
    code = tree.levels[-1].code[leaves][:, None].expand(below.shape)
    return logits.scatter_add(2, code, torch.where(below, repeats.values[:, None], 0.0))


def merge_beams(total: Tensor, kept: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The places that at least one search keeps, each once, the best first.

    Args:
        total: (B, C) scores. kept: for each search, (B, w) scores, -inf where it keeps nothing more, and their places.

    Returns:
        (B, W) scores, -inf where a user has fewer than W; (B, W) places; and for each search (B, W) whether it keeps
        the place.
    """
    if len(kept) == 1:
        ((scores, picked),) = kept
        return scores, picked, [scores > float("-inf")]
    nothing = torch.zeros_like(total, dtype=torch.bool)
    marks = torch.stack([nothing.scatter(1, picked, scores > float("-inf")) for scores, picked in kept])  # (R, B, C)
    in_any = marks.any(0)
    width = max(int(in_any.sum(1).max()), 1)
    scores, picked = total.masked_fill(~in_any, float("-inf")).topk(width, dim=-1)
    return scores, picked, [mark.gather(1, picked) for mark in marks]


@torch.no_grad()
def exact_scores(
    recommender: Recommender,
    codes: Tensor,
    source: Tensor,
    mask: Tensor,
    repeats: Repeats | None = None,
    chunk: int = 1024,
) -> Tensor:
    """Log-probability of every item by plain teacher forcing: (N, T) codes -> (B, N). The tests' oracle."""
    memory = recommender.encode(source, mask)
    rows = []
    for user, (user_memory, user_mask) in enumerate(zip(memory, mask, strict=True)):
        parts = []
        for part in codes.split(chunk):
            expanded = user_memory.expand(len(part), -1, -1), user_mask.expand(len(part), -1)
            output = recommender.decode(*expanded, part[:, None])[:, 0]
            score = torch.zeros(len(part), device=codes.device)
            for position in range(codes.shape[1]):
                logits = recommender.position_logits(output[:, position], position).float()
                if repeats is not None and position + 1 == codes.shape[1]:
                    for item, value in zip(repeats.items[user], repeats.values[user], strict=True):
                        siblings = (part[:, :-1] == codes[item, :-1]).all(1)
                        logits[siblings, codes[item, -1]] += value
                log_p = logits.log_softmax(-1)
                score = score + log_p.gather(1, part[:, position : position + 1])[:, 0]
            parts.append(score)
        rows.append(torch.cat(parts))
    return torch.stack(rows)
