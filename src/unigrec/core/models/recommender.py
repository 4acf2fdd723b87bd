"""The recommender: a T5-shaped encoder-decoder from soft identifiers to a semantic ID.

Relative position buckets shared over layers, pre-norm RMSNorm, no biases, tied input and output table scaled by
d_model ** -0.5 (Raffel et al., arXiv 1910.10683). Equal to `transformers` T5 with copied weights (a test asserts it).

Shapes: B sequences, S source tokens, T target positions, H heads, E d_model, V vocabulary, L levels, K codewords.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unigrec.core.models.cpu import fused
from unigrec.core.models.cpu.blocked import is_long
from unigrec.core.models.cpu.operators import linear, uses_cpu_backward
from unigrec.core.models.layers import Dropout, Linear, RMSNorm, attend

START = 0  # row of the token table that starts the decoder


@dataclass(frozen=True)
class RecommenderConfig:
    """The network's shape.

    Attributes:
        disambiguation: range of the code that tells colliding items apart; 0 for none.
        causal: whether an item's tokens attend to its own and to earlier items only, so that one pass over a sequence
            holds the encoding of each of its prefixes.
    """

    d_model: int
    d_ff: int
    heads: int
    d_kv: int
    encoder_layers: int
    decoder_layers: int
    dropout: float
    levels: int
    codebook_size: int
    disambiguation: int
    causal: bool = False
    buckets: int = 32
    max_distance: int = 128

    @property
    def code_sizes(self) -> list[int]:
        """How many codes each decoder position chooses from."""
        return [self.codebook_size] * self.levels + ([self.disambiguation] if self.disambiguation else [])

    @property
    def vocabulary(self) -> int:
        return 1 + sum(self.code_sizes)

    def to_dict(self) -> dict:
        return asdict(self)


class Recommender(nn.Module):
    """Encoder over the soft identifiers of a history, decoder over the codes of the next item.

    The decoder's position l chooses among the codes of level l only: its cross entropy is over that level's range.
    """

    def __init__(self, config: RecommenderConfig):
        super().__init__()
        self.config = config
        self.token_table = nn.Embedding(config.vocabulary, config.d_model)
        self.encoder = Stack(config, config.encoder_layers, decoder=False)
        self.decoder = Stack(config, config.decoder_layers, decoder=True)
        nn.init.normal_(self.token_table.weight, std=1.0)
        offsets = [1]
        for size in config.code_sizes:
            offsets.append(offsets[-1] + size)
        self.offsets = offsets  # first table row of each position's range, and the end

    @torch.no_grad()
    def start_from_codebooks(self, codebooks: Tensor) -> None:
        """Let near codewords start with near tokens: each level's rows become a random projection of its codebook.

        Rows keep unit variance. A code that few items have is then learned from its neighbours too.
        codebooks: (L, K, C).
        """
        _, K, C = codebooks.shape
        for level, codebook in enumerate(codebooks):
            centred = codebook - codebook.mean(0)
            projection = torch.randn(C, self.config.d_model, device=codebook.device) / C**0.5
            rows = centred / centred.std().clamp_min(1e-12) @ projection
            self.token_table.weight[1 + level * K : 1 + (level + 1) * K] = rows

    def level_table(self, position: int) -> Tensor:
        """Rows of the token table that belong to a position: (K, E)."""
        return self.token_table.weight[self.offsets[position] : self.offsets[position + 1]]

    def embed_soft(self, probabilities: Tensor) -> Tensor:
        """Expectation of the level's rows under the soft identifier: (..., L, K) -> (..., L, E).

        With a one-hot assignment this is the table lookup.
        """
        L, K = self.config.levels, self.config.codebook_size
        tables = self.token_table.weight[1 : 1 + L * K].view(L, K, -1)
        return torch.einsum("...lk,lke->...le", probabilities, tables)

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Table lookup of codes, position by position: (..., T) int64 -> (..., T, E)."""
        shift = torch.tensor(self.offsets[: codes.shape[-1]], device=codes.device)
        return self.token_table(codes + shift)

    def encode(self, source: Tensor, mask: Tensor) -> Tensor:
        """source (B, S, E), mask (B, S) true where there is a token -> (B, S, E)."""
        return self.encoder(source, mask)

    def decode(self, memory: Tensor, mask: Tensor, codes: Tensor) -> Tensor:
        """Teacher forcing: codes (B, T) -> decoder output (B, T, E); position 0 has seen no code yet.

        Several targets may share a history: memory (B, S, E), mask (B, m, S) of what each of its m targets may read, R
        identifiers for each of them: codes (B * m * R, T) -> (B * m * R, T, E).
        """
        start = self.token_table.weight[START].expand(len(codes), 1, -1)
        inputs = torch.cat([start, self.embed_codes(codes[:, :-1])], dim=1)
        return self.decoder(inputs, None, memory, mask)

    def position_logits(self, output: Tensor, position: int) -> Tensor:
        """(..., E) decoder output at a position -> (..., K) logits over that position's codes."""
        return linear(output * self.config.d_model**-0.5, self.level_table(position))


class Stack(nn.Module):
    """T5 blocks with one relative position bias shared by all of them."""

    def __init__(self, config: RecommenderConfig, layers: int, decoder: bool):
        super().__init__()
        self.is_decoder = decoder
        self.causal_group = config.levels if config.causal and not decoder else 0  # tokens of an item
        self.buckets, self.max_distance = config.buckets, config.max_distance
        self.position_bias = nn.Embedding(config.buckets, config.heads)
        # A causal encoder cannot tell an item that it is the last: what is read must say how far back it lies.
        self.levels = config.levels
        self.recency_bias = nn.Embedding(config.buckets, config.heads) if decoder and config.causal else None
        self.layers = nn.ModuleList([Layer(config, decoder) for _ in range(layers)])
        self.norm = RMSNorm(config.d_model)
        self.dropout = Dropout(config.dropout)
        nn.init.normal_(self.position_bias.weight, std=config.d_model**-0.5)
        if self.recency_bias is not None:
            nn.init.normal_(self.recency_bias.weight, std=config.d_model**-0.5)

    def memory_bias(self, mask: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
        """What is added to the scores of cross-attention.

        mask (M, S), or (M, m, S) for m targets a history, each read by `steps` query positions; true for the tokens
        that may be read, which come first -> (M, 1 or H, 1 or m * steps, S).
        """
        bias = additive_mask(mask, dtype)
        if self.recency_bias is not None:
            tokens = torch.arange(mask.shape[-1], device=mask.device)
            items_back = (
                mask.sum(-1, keepdim=True) - 1 - tokens
            ) // self.levels  # items between a token's and the last
            recency = self.recency_bias(items_back.clamp(0, self.buckets - 1)).movedim(
                -1, 1
            )  # (M, H, S) or (M, H, m, S)
            bias = bias + (recency if mask.dim() == 3 else recency[:, :, None]).to(dtype)
        return bias if mask.dim() == 2 else bias.repeat_interleave(steps, dim=2)

    def bias(self, queries: int, keys: int, device: torch.device, first_query: int = 0) -> Tensor:
        """(1, H, queries, keys) relative position bias; causal for the decoder, and over items for a causal encoder."""
        query = torch.arange(first_query, first_query + queries, device=device)[:, None]
        key = torch.arange(keys, device=device)[None, :]
        distance = key - query
        bucket = relative_bucket(distance, not self.is_decoder, self.buckets, self.max_distance)
        bias = self.position_bias(bucket).permute(2, 0, 1)[None]
        if self.is_decoder:
            bias = bias.masked_fill(distance > 0, float("-inf"))
        elif self.causal_group:
            bias = bias.masked_fill(key // self.causal_group > query // self.causal_group, float("-inf"))
        return bias

    def forward(
        self, hidden: Tensor, mask: Tensor | None, memory: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Tensor:
        """One pass: hidden (B, T, E), mask (B, T) -> (B, T, E).

        memory (M, S, E) serves B / M rows of `hidden` each; memory_mask (M, S), or (M, m, S), where each of the m masks
        holds for B / (M * m) consecutive rows.
        """
        bias = self.bias(hidden.shape[1], hidden.shape[1], hidden.device).to(hidden.dtype)
        key_mask = mask if uses_cpu_backward(hidden) and is_long(*bias.shape[2:]) else None
        if mask is not None and key_mask is None:
            bias = bias + additive_mask(mask, hidden.dtype)
        cross_bias = None
        if memory_mask is not None:
            masks = memory_mask.shape[:-1].numel()  # a rank may have none at all
            cross_bias = self.memory_bias(memory_mask, hidden.shape[:2].numel() // max(masks, 1), hidden.dtype)
        hidden = self.dropout(hidden)
        for layer in self.layers:
            hidden = layer(hidden, bias, memory, cross_bias, key_mask)
        return self.dropout(self.norm(hidden))


class Layer(nn.Module):
    """Self-attention, cross-attention in the decoder, feed-forward; each pre-norm with a residual."""

    def __init__(self, config: RecommenderConfig, decoder: bool):
        super().__init__()
        self.self_attention = Attention(config)
        self.self_norm = RMSNorm(config.d_model)
        self.cross_attention = Attention(config) if decoder else None
        self.cross_norm = RMSNorm(config.d_model) if decoder else None
        self.feed_norm = RMSNorm(config.d_model)
        self.feed_in = Linear(config.d_model, config.d_ff, bias=False)
        self.feed_out = Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = Dropout(config.dropout)
        nn.init.normal_(self.feed_in.weight, std=config.d_model**-0.5)
        nn.init.normal_(self.feed_out.weight, std=config.d_ff**-0.5)

    def forward(
        self,
        hidden: Tensor,
        bias: Tensor,
        memory: Tensor | None,
        cross_bias: Tensor | None,
        key_mask: Tensor | None = None,
    ) -> Tensor:
        """hidden (B, T, E), memory (M, S, E); biases broadcastable to (B, H, T, T) and (M, H, B / M * T, S).

        key_mask: (B, T), which positions may be read, where `bias` does not say it; for `fused` alone.
        """
        if uses_cpu_backward(hidden):
            return self.fused(hidden, bias, memory, cross_bias, key_mask)
        normed = self.self_norm(hidden)
        key, value = self.self_attention.keys_values(normed)
        hidden = hidden + self.dropout(self.self_attention(normed, key, value, bias))
        if self.cross_attention is not None:
            assert memory is not None
            hidden = hidden + self.cross(hidden, *self.cross_keys_values(memory), cross_bias)
        return hidden + self.feed_forward(hidden)

    def fused(
        self, hidden: Tensor, bias: Tensor, memory: Tensor | None, cross_bias: Tensor | None, key_mask: Tensor | None
    ) -> Tensor:
        """The same, each sublayer as one step of autograd."""
        # Self-attention: one matmul gives queries, keys and values.
        p, attention = self.dropout.p if self.training else 0.0, self.self_attention
        weight = torch.cat([attention.query.weight, attention.key.weight, attention.value.weight])
        hidden = fused.attention(
            hidden, None, self.self_norm.weight, weight, attention.out.weight, bias, attention.heads, p, key_mask
        )
        if self.cross_attention is not None:
            assert memory is not None
            assert cross_bias is not None
            assert self.cross_norm is not None
            # Cross-attention: all positions that read the same memory become queries of one sequence.
            grouped = hidden.reshape(len(memory), -1, hidden.shape[-1])
            inputs = self.cross_attention.cross_inputs(memory, cross_bias, grouped.shape[1])
            hidden = fused.attention(grouped, inputs.memory, self.cross_norm.weight, *inputs[1:], p).view_as(hidden)
        return fused.feed_forward(hidden, self.feed_norm.weight, self.feed_in.weight, self.feed_out.weight, p)

    def cross_keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        assert self.cross_attention is not None
        return self.cross_attention.keys_values(memory)

    def cross(self, hidden: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Cross-attention with keys and values that were computed once, and serve all rows that belong to them."""
        assert self.cross_attention is not None
        assert self.cross_norm is not None
        queries = len(hidden) // max(len(key), 1) * hidden.shape[1]  # of each history; a rank may have none at all
        grouped = self.cross_norm(hidden).reshape(len(key), queries, hidden.shape[-1])
        return self.dropout(self.cross_attention(grouped, key, value, bias)).view_as(hidden)

    def feed_forward(self, hidden: Tensor) -> Tensor:
        inner = self.dropout(F.relu(self.feed_in(self.feed_norm(hidden))))
        return self.dropout(self.feed_out(inner))


class CrossAttentionInputs(NamedTuple):
    """What `fused.attention` needs to read a memory; it says what each is."""

    memory: Tensor
    weight: Tensor
    out: Tensor
    bias: Tensor
    heads: int


class FoldedWeights(NamedTuple):
    """Weights of an attention per head, multiplied with each other: they act on the memory, without keys and values."""

    scores: Tensor  # (H, E, E) K_h' Q_h, from a query position to what its scores are products of memory tokens with
    values: Tensor  # (H, E, E) O_h V_h, from a memory token to what it adds to the residual stream


class Attention(nn.Module):
    """Multi-head attention without scaling of the scores, as T5 has it."""

    def __init__(self, config: RecommenderConfig):
        super().__init__()
        inner = config.heads * config.d_kv
        self.heads, self.d_kv, self.dropout = config.heads, config.d_kv, Dropout(config.dropout)
        self.query = Linear(config.d_model, inner, bias=False)
        self.key = Linear(config.d_model, inner, bias=False)
        self.value = Linear(config.d_model, inner, bias=False)
        self.out = Linear(inner, config.d_model, bias=False)
        nn.init.normal_(self.query.weight, std=(config.d_model * config.d_kv) ** -0.5)
        nn.init.normal_(self.key.weight, std=config.d_model**-0.5)
        nn.init.normal_(self.value.weight, std=config.d_model**-0.5)
        nn.init.normal_(self.out.weight, std=inner**-0.5)

    def split(self, projected: Tensor) -> Tensor:
        """(B, T, H * d_kv) -> (B, H, T, d_kv)."""
        return projected.unflatten(-1, (self.heads, self.d_kv)).transpose(1, 2)

    def keys_values(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.split(self.key(hidden)), self.split(self.value(hidden))

    def fold(self) -> FoldedWeights:
        """q_h k_h = (Q_h x)' (K_h y) = (K_h' Q_h x)' y, and sum_h O_h V_h y is what a memory token y adds."""
        query, key, value = (part.weight.unflatten(0, (self.heads, -1)) for part in (self.query, self.key, self.value))
        out = self.out.weight.unflatten(1, (self.heads, -1)).transpose(0, 1)  # (H, E, d_kv)
        return FoldedWeights(key.mT @ query, out @ value)

    def cross_inputs(self, memory: Tensor, bias: Tensor, queries: int) -> CrossAttentionInputs:
        """How `queries` positions of each sequence read a memory (B, S, E), at the least cost.

        Few queries cost less with folded weights: the memory itself is then key and value at once, of one head that has
        all heads' queries.
        bias: broadcastable to (B, H, queries, S).
        """
        heads, d, E = self.heads, self.d_kv, memory.shape[-1]
        if queries * (E - d) * (E + memory.shape[1]) >= memory.shape[1] * E * d:
            keys_values = linear(memory, torch.cat([self.key.weight, self.value.weight]))
            keys_values = keys_values.unflatten(-1, (2, heads, d))
            return CrossAttentionInputs(keys_values, self.query.weight, self.out.weight, bias, heads)
        folded = self.fold()
        weight = folded.scores.flatten(0, 1)  # (H * E, E)
        out = folded.values.transpose(0, 1).flatten(1)  # (E, H * E)
        bias = bias.expand(-1, heads, queries, -1).transpose(1, 2).flatten(1, 2)[:, None]  # (B, 1, queries * H, S)
        return CrossAttentionInputs(memory[:, :, None, None], weight, out, bias, 1)

    def forward(self, hidden: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """hidden (B, T, E), key and value (B, H, S, d_kv), bias broadcastable to (B, H, T, S) -> (B, T, E)."""
        context = attend(self.split(self.query(hidden)), key, value, bias, self.dropout)
        return self.out(context.transpose(1, 2).flatten(-2))


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, S) or (B, T, S), true where there is a token to read -> (B, 1, 1 or T, S) to be added to scores."""
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, float("-inf"))
    return bias[:, None, None] if mask.dim() == 2 else bias[:, None]


def relative_bucket(distance: Tensor, bidirectional: bool, buckets: int, max_distance: int) -> Tensor:
    """T5's bucket of a relative position (key minus query): exact when near, logarithmic when far."""
    if bidirectional:
        buckets //= 2
        bucket = (distance > 0).long() * buckets
        distance = distance.abs()
    else:
        bucket = torch.zeros_like(distance)
        distance = (-distance).clamp_min(0)
    exact = buckets // 2
    far = exact + (
        torch.log(distance.float().clamp_min(1) / exact) / math.log(max_distance / exact) * (buckets - exact)
    ).long().clamp(max=buckets - 1 - exact)
    return bucket + torch.where(distance < exact, distance, far)
