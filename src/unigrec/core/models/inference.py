"""A recommender arranged for inference: the same network with fewer and faster operations for few rows.

A search for one history multiplies some dozens of rows at a time, so each call and each layout of a matrix counts.

- Weights are stored (n, m), as `rows @ weight` reads them. With torch's (m, n) a product of 30 rows takes up to twice
  as long.
- Queries, keys and values are one product. What is added to the residual stream is part of the product.
- The gain of a norm is part of the weights behind it.
- What does not depend on the history is computed once: folded weights of cross-attention, relative position biases.

It holds copies of the matrices, those of the moment it was made: make another one when the recommender was trained on.
Not differentiable.

Shapes: B histories, S tokens, R rows, H heads, d numbers per head, I = H * d, E d_model.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unigrec.core.models.cpu.operators import EPS, ONEDNN, cpu_matmul
from unigrec.core.models.layers import RMSNorm
from unigrec.core.models.recommender import Attention, Layer, Recommender, Stack, additive_mask

MANY_ROWS = 256  # from so many on, oneDNN is at least as fast on every processor that was tried


def product(rows: Tensor, weight: Tensor, onto: Tensor | None = None) -> Tensor:
    """rows @ weight (+ onto): (R, n), (n, m), (R, m) -> (R, m)."""
    if (
        (ONEDNN and len(rows) >= MANY_ROWS and rows.device.type == "cpu")
        and rows.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    ):
        result = cpu_matmul(rows, weight.mT)
        return result if onto is None else result.add_(onto)
    return rows @ weight if onto is None else torch.addmm(onto, rows, weight)


def normed(rows: Tensor) -> Tensor:
    """Each row divided by its length, (..., E) -> (..., E): RMSNorm without its gain and without sqrt(E)."""
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / length.square_().add_(EPS * rows.shape[-1]).sqrt_()


def gain_of(norm: RMSNorm) -> Tensor:
    """(E, 1) what `normed` leaves out, as a factor of the rows of a weight (E, m)."""
    return (norm.weight * len(norm.weight) ** 0.5)[:, None]


def arranged(*weights: Tensor) -> Tensor:
    """Weights (m, n) of one input -> (n, sum of m), contiguous."""
    return torch.cat(weights).T.contiguous()


class SelfAttention(NamedTuple):
    """Weights of the attention of a sequence to itself; they read what `normed` gives."""

    read: Tensor  # (E, 3 * I): queries, keys, values
    out: Tensor  # (I, E)

    @classmethod
    def of(cls, layer: Layer) -> SelfAttention:
        own = layer.self_attention
        read = arranged(own.query.weight, own.key.weight, own.value.weight)
        return cls(gain_of(layer.self_norm) * read, arranged(own.out.weight))


class CrossAttention(NamedTuple):
    """Weights of the attention to a memory, in both forms that a decoder can use. Queries read what `normed` gives."""

    heads: int
    query: Tensor  # (E, I)
    keys_values: Tensor  # (E, 2 * I), of the memory
    out: Tensor  # (I, E)
    folded: Tensor  # (E, 2 * H * E), of the memory: keys and values as `Attention.fold` describes them

    @classmethod
    def of(cls, layer: Layer) -> CrossAttention:
        cross = layer.cross_attention
        assert isinstance(cross, Attention)
        assert layer.cross_norm is not None
        gain, parts = gain_of(layer.cross_norm), cross.fold()
        folded = torch.cat([gain * parts.scores.mT, parts.values])  # (2 * H, E, E)
        return cls(
            heads=cross.heads,
            query=gain * arranged(cross.query.weight),
            keys_values=arranged(cross.key.weight, cross.value.weight),
            out=arranged(cross.out.weight),
            folded=arranged(folded.flatten(0, 1)),
        )


class FeedForward(NamedTuple):
    """Weights of a feed-forward block; it reads what `normed` gives."""

    inner: Tensor  # (E, d_ff)
    out: Tensor  # (d_ff, E)

    @classmethod
    def of(cls, layer: Layer) -> FeedForward:
        return cls(gain_of(layer.feed_norm) * arranged(layer.feed_in.weight), arranged(layer.feed_out.weight))

    def add_to(self, hidden: Tensor) -> Tensor:
        """hidden + the block's output: (R, E) -> (R, E)."""
        return product(product(normed(hidden), self.inner).relu_(), self.out, onto=hidden)


class DecoderLayer(NamedTuple):
    own: SelfAttention
    cross: CrossAttention
    feed: FeedForward


class InferenceRecommender:
    """What a search needs of a recommender.

    Attributes:
        decoder: weights of its layers. own_bias: (T, T, H) relative position bias of the decoder (query, key, head).
        tables: per decoder position (E, codes): from what `normed` gives to the logits.
    """

    @torch.no_grad()
    def __init__(self, recommender: Recommender):
        self.recommender, self.config = recommender, recommender.config
        encoder, decoder = recommender.encoder, recommender.decoder
        self.encoder = [(SelfAttention.of(layer), FeedForward.of(layer)) for layer in _layers(encoder)]
        self.decoder = [
            DecoderLayer(SelfAttention.of(layer), CrossAttention.of(layer), FeedForward.of(layer))
            for layer in _layers(decoder)
        ]
        positions, device = len(self.config.code_sizes), recommender.token_table.weight.device
        self.own_bias = decoder.bias(positions, device)[0].movedim(0, -1).contiguous()
        scale = gain_of(decoder.norm) * self.config.d_model**-0.5
        self.tables = [scale * arranged(recommender.level_table(position)) for position in range(positions)]
        self._encoder_bias = encoder.bias(1, device)

    @torch.no_grad()
    def encode(self, source: Tensor, mask: Tensor) -> Tensor:
        """As `Recommender.encode`: source (B, S, E), mask (B, S) -> (B, S, E)."""
        B, S, E = source.shape
        known = self._encoder_bias  # another thread may put a smaller one there
        if known.shape[-1] < S:
            known = self._encoder_bias = self.recommender.encoder.bias(S, source.device)
        bias = known[..., :S, :S].to(source.dtype) + additive_mask(mask, source.dtype)
        heads = (3, self.config.heads, self.config.d_kv)
        hidden = source.reshape(B * S, E)
        for own, feed in self.encoder:
            query, key, value = product(normed(hidden), own.read).view(B, S, *heads).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
            hidden = product(mixed.transpose(1, 2).reshape(B * S, -1), own.out, onto=hidden)
            hidden = feed.add_to(hidden)
        norm = self.recommender.encoder.norm
        return F.rms_norm(hidden, norm.weight.shape, norm.weight, EPS).view(B, S, E)

    def position_logits(self, hidden: Tensor, position: int) -> Tensor:
        """As `Recommender.position_logits`, of a decoder output before its last norm: (B, W, E) -> (B, W, codes)."""
        return product(normed(hidden.flatten(0, 1)), self.tables[position]).unflatten(0, hidden.shape[:2])


def _layers(stack: Stack) -> list[Layer]:
    return [layer for layer in stack.layers if isinstance(layer, Layer)]
