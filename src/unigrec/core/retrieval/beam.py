"""Constrained beam search over the prefix tree of existing semantic IDs, and the exact scorer that checks it.

Items are sorted by their codes, so every node of the tree is a contiguous range of items; a node's children are
contiguous too. Shapes: B users, W beams, C children of a user's beams, N items, K codes of a level, T codes of an
identifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unigrec.core.models.recommender import START, Recommender
from unigrec.core.retrieval.decoder_cache import DecoderCache
from unigrec.core.retrieval.prefix_tree import PrefixTree, Restriction


class Recommendations(NamedTuple):
    """Ranked items: W as asked for, or fewer where the catalogue has fewer. What is not permitted is -1, score -inf."""

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
