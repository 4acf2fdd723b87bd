"""The decoder one position at a time: cached keys and values, cross-attention without copies per beam.

Shapes: B users, W beams, S tokens of a history, H heads, d numbers per head, E d_model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unigrec.core.models.inference import CrossAttention, InferenceRecommender, normed, product

LEAST_TOKENS = 16  # a softmax over fewer takes torch several times as long, since it works on whole vectors


class PerHeadCrossAttention:
    """Cross-attention of one layer in its textbook form: queries attend to keys and values (B, H, S, d)."""

    def __init__(self, weights: CrossAttention, memory: Tensor, bias: Tensor):
        """memory (B, S, E); bias broadcastable to (B, H, 1, S)."""
        B, S, _ = memory.shape
        self.weights, self.bias = weights, bias
        read = product(memory.flatten(0, 1), weights.keys_values).view(B, S, 2, weights.heads, -1)
        self.keys, self.values = read.permute(2, 0, 3, 1, 4)  # (B, H, S, d)

    def add_to(self, hidden: Tensor) -> Tensor:
        """hidden + attention(hidden): (B, W, E) -> (B, W, E)."""
        B, W, E = hidden.shape
        flat = hidden.view(B * W, E)
        query = product(normed(flat), self.weights.query).view(B, W, self.weights.heads, -1).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, self.keys, self.values, attn_mask=self.bias, scale=1.0)
        return product(mixed.transpose(1, 2).reshape(B * W, -1), self.weights.out, onto=flat).view(B, W, E)


class FoldedCrossAttention:
    """The same attention, faster if many queries read few tokens: the weights of a query are folded into the keys.

    q_h k_h = x (Q_h' K_h y), and sum_h O_h V_h y is what the token y adds to the residual. Both are computed once per
    user. A step then needs two products per user with all heads at once, instead of two products for all users and H
    small ones per user.
    """

    def __init__(self, weights: CrossAttention, memory: Tensor, bias: Tensor):
        """memory (B, S, E); bias broadcastable to (B, H, 1, S)."""
        missing = max(LEAST_TOKENS - memory.shape[1], 0)
        memory, bias = F.pad(memory, (0, 0, 0, missing)), F.pad(bias, (0, missing), value=float("-inf"))
        B, S, E = memory.shape
        self.heads = weights.heads
        read = product(memory.flatten(0, 1), weights.folded).view(B, S, 2, self.heads, E).permute(2, 0, 3, 1, 4)
        self.keys, self.values = read.reshape(2, B, self.heads * S, E)
        self.bias = bias.expand(-1, self.heads, -1, -1).reshape(B, 1, self.heads * S)

    def add_to(self, hidden: Tensor) -> Tensor:
        """hidden + attention(hidden): (B, W, E) -> (B, W, E)."""
        scores = torch.baddbmm(self.bias, normed(hidden), self.keys.mT).unflatten(-1, (self.heads, -1))  # (B, W, H, S)
        return torch.baddbmm(hidden, scores.softmax(-1).flatten(-2), self.values)


def cross_attention_for(
    weights: CrossAttention, memory: Tensor, bias: Tensor, queries: int
) -> PerHeadCrossAttention | FoldedCrossAttention:
    """The form that takes fewer multiplications for that many queries per user."""
    (_, S, E), inner = memory.shape, len(weights.out)
    by_head = queries * 2 * inner * (E + S) + S * 2 * inner * E
    folded = queries * 2 * weights.heads * S * E + S * 2 * weights.heads * E * E
    form = FoldedCrossAttention if folded < by_head else PerHeadCrossAttention
    return form(weights, memory, bias)


class DecoderCache:
    """Keys and values of the decoder: for cross-attention once per user, for self-attention step by step."""

    def __init__(self, network: InferenceRecommender, memory: Tensor, mask: Tensor, queries: int = 1):
        """memory (B, S, E), mask (B, S). queries: positions that will be decoded per user, over all steps."""
        config = network.config
        self.layers, self.shape = network.decoder, (3, config.heads, config.d_kv)
        bias = network.recommender.decoder.memory_bias(mask, 1, memory.dtype)
        self.cross = [cross_attention_for(layer.cross, memory, bias, queries) for layer in self.layers]
        self.bias = network.own_bias.to(memory.dtype)  # (query, key, H)
        # A (B, W, H, d) per step in each layer. All beams of a user share the first step, for which W is 1.
        self.keys: list[list[Tensor]] = [[] for _ in self.layers]
        self.values: list[list[Tensor]] = [[] for _ in self.layers]

    def reorder(self, beams: Tensor) -> None:
        """Continue with the picked beams: (B, W) index of the old beam."""
        B, old = len(beams), self.keys[0][-1].shape[1]
        rows = (beams + old * torch.arange(B, device=beams.device)[:, None]).flatten()
        for past in (*self.keys, *self.values):
            past[1:] = [part.flatten(0, 1).index_select(0, rows).unflatten(0, beams.shape) for part in past[1:]]

    def step(self, hidden: Tensor) -> Tensor:
        """One decoder position of every beam, without the decoder's last norm: (B, W, E) -> (B, W, E)."""
        B, W, E = hidden.shape
        hidden = hidden.reshape(B * W, E)
        position = len(self.keys[0])
        bias = self.bias[position, : position + 1, None, None]  # (position + 1, 1, 1, H)
        for layer, keys, values, cross in zip(self.layers, self.keys, self.values, self.cross, strict=True):
            query, key, value = product(normed(hidden), layer.own.read).view(B, W, *self.shape).unbind(2)
            keys.append(key)
            values.append(value)
            mixed = attend_own(query, keys, values, bias).reshape(B * W, -1)
            hidden = product(mixed, layer.own.out, onto=hidden)
            hidden = cross.add_to(hidden.view(B, W, E)).view(B * W, E)
            hidden = layer.feed.add_to(hidden)
        return hidden.view(B, W, E)


def attend_own(query: Tensor, keys: list[Tensor], values: list[Tensor], bias: Tensor) -> Tensor:
    """Attention of every beam over its own few steps. For so few, products and sums are faster than torch's operator.

    query (B, W, H, d); keys and values: a (B, W or 1, H, d) per step, t steps; bias (t, 1, 1, H) -> (B, W, H, d).
    """
    if len(keys) == 1:
        return values[0]
    scores = torch.stack([torch.linalg.vecdot(query, key) for key in keys])  # (t, B, W, H)
    weights = (scores + bias).softmax(0).unsqueeze(-1)
    mixed = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        mixed = torch.addcmul(mixed, weight, value)
    return mixed
