"""The decoder one position at a time: cached keys and values, cross-attention without copies per beam.

Shapes: B users, W beams, S tokens of a history, H heads, d numbers per head, E d_model.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unigrec.core.models.cpu.operators import EPS, matmul
from unigrec.core.models.recommender import Attention, Layer, Recommender


class LayerWeights(NamedTuple):
    """The weights of a decoder layer. For one user the matrices are so small that calling modules would take time."""

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


LEAST_TOKENS = 16  # a softmax over fewer takes torch several times as long, since it works on whole vectors


class PerHeadCrossAttention:
    """Cross-attention of one layer in its textbook form: queries attend to keys and values (B, H, S, d)."""

    def __init__(self, cross: Attention, memory: Tensor, bias: Tensor):
        """memory (B, S, E); bias broadcastable to (B, H, 1, S)."""
        self.query, self.out, self.bias = cross.query.weight, cross.out.weight, bias
        self.keys_values = cross.keys_values(memory)
        self.split = cross.split

    def add_to(self, hidden: Tensor, normed: Tensor) -> Tensor:
        """hidden + attention(normed): (B, W, E) twice -> (B, W, E)."""
        query = self.split(matmul(normed, self.query))  # (B, H, W, d)
        mixed = F.scaled_dot_product_attention(query, *self.keys_values, attn_mask=self.bias, scale=1.0)
        return matmul(mixed.transpose(1, 2).flatten(-2), self.out).add_(hidden)


class FoldedCrossAttention:
    """The same attention, faster if many queries read few tokens: the weights of a query are folded into the keys.

    q_h k_h = x (Q_h' K_h y), and sum_h O_h V_h y is what the token y adds to the residual. Both are computed once per
    user. A step then needs two products per user with all heads at once, instead of two products for all users and H
    small ones per user.
    """

    def __init__(self, cross: Attention, memory: Tensor, bias: Tensor):
        """memory (B, S, E); bias broadcastable to (B, H, 1, S)."""
        missing = max(LEAST_TOKENS - memory.shape[1], 0)
        memory, bias = F.pad(memory, (0, 0, 0, missing)), F.pad(bias, (0, missing), value=float("-inf"))
        B, S, E = memory.shape
        heads = cross.heads
        folded = cross.fold()
        weight = torch.cat([folded.scores.mT, folded.values]).flatten(0, 1)  # (2 * H * E, E)
        read = matmul(memory, weight).view(B, S, 2, heads, E).permute(2, 0, 3, 1, 4)  # (2, B, H, S, E)
        self.keys, self.values = read.reshape(2, B, heads * S, E)
        self.bias = bias.expand(-1, heads, -1, -1).reshape(B, 1, heads * S)
        self.heads = heads

    def add_to(self, hidden: Tensor, normed: Tensor) -> Tensor:
        """hidden + attention(normed): (B, W, E) twice -> (B, W, E)."""
        scores = torch.baddbmm(self.bias, normed, self.keys.mT).unflatten(-1, (self.heads, -1))  # (B, W, H, S)
        return torch.baddbmm(hidden, scores.softmax(-1).flatten(-2), self.values)


def cross_attention_for(
    cross: Attention | None, memory: Tensor, bias: Tensor, queries: int
) -> PerHeadCrossAttention | FoldedCrossAttention:
    """The form that takes fewer multiplications for that many queries per user."""
    assert cross is not None
    B, S, E = memory.shape
    inner = cross.heads * cross.d_kv
    by_head = B * (queries * 2 * inner * (E + S) + S * 2 * inner * E)
    folded = B * (queries * 2 * cross.heads * S * E + S * 2 * cross.heads * E * E) + 2 * inner * E * E
    return FoldedCrossAttention(cross, memory, bias) if folded < by_head else PerHeadCrossAttention(cross, memory, bias)


class DecoderCache:
    """Keys and values of the decoder: for cross-attention once per user, for self-attention step by step."""

    def __init__(self, recommender: Recommender, memory: Tensor, mask: Tensor, queries: int = 1):
        """memory (B, S, E), mask (B, S). queries: positions that will be decoded per user, over all steps."""
        config, stack = recommender.config, recommender.decoder
        layers = [layer for layer in stack.layers if isinstance(layer, Layer)]
        self.heads, self.d_kv, self.norm = config.heads, config.d_kv, stack.norm
        self.weights = [LayerWeights.of(layer) for layer in layers]
        bias = stack.memory_bias(mask, 1, memory.dtype)
        self.cross = [cross_attention_for(layer.cross_attention, memory, bias, queries) for layer in layers]
        positions = len(config.code_sizes)
        bias = stack.bias(positions, memory.device)[0]  # (H, positions, positions)
        self.bias = bias.movedim(0, -1).to(memory.dtype)  # (query, key, H)
        # A (B, W, H, d) per step in each layer. All beams of a user share the first step, for which W is 1.
        self.keys: list[list[Tensor]] = [[] for _ in layers]
        self.values: list[list[Tensor]] = [[] for _ in layers]

    def reorder(self, beams: Tensor) -> None:
        """Continue with the picked beams: (B, W) index of the old beam."""
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
            keys.append(matmul(normed, layer.key).view(shape))
            values.append(matmul(normed, layer.value).view(shape))
            mixed = attend_own(matmul(normed, layer.query).view(shape), keys, values, bias)
            hidden = matmul(mixed.flatten(-2), layer.out).add_(hidden)
            hidden = cross.add_to(hidden, self.normed(hidden, layer.cross_norm))
            inner = matmul(self.normed(hidden, layer.feed_norm), layer.feed_in, "relu")
            hidden = matmul(inner, layer.feed_out).add_(hidden)
        return self.norm(hidden)

    def normed(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(hidden, weight.shape, weight, EPS)


def attend_own(query: Tensor, keys: list[Tensor], values: list[Tensor], bias: Tensor) -> Tensor:
    """Attention of every beam over its own few steps. For so few, products and sums are faster than torch's operator.

    query (B, W, H, d); keys and values: a (B, W or 1, H, d) per step, t steps; bias (t, 1, 1, H) -> (B, W, H, d).
    """
    scores = torch.stack([torch.linalg.vecdot(query, key) for key in keys])  # (t, B, W, H)
    weights = (scores + bias).softmax(0).unsqueeze(-1)
    mixed = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        mixed = torch.addcmul(mixed, weight, value)
    return mixed
