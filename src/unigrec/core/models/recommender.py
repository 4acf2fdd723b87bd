"""The recommender: a T5-shaped encoder-decoder from soft identifiers to a semantic ID.

Layers share their relative position buckets. They have pre-norm RMSNorm and no biases. One table serves as input and
output; outputs are scaled by d_model ** -0.5 (Raffel et al., arXiv 1910.10683). With copied weights the network equals
T5 of `transformers` (a test asserts it).

Shapes: B sequences, S source tokens, T target positions, H heads, E d_model, V vocabulary, L levels, K codewords.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unigrec.core.models.cpu import fused
from unigrec.core.models.cpu.blocked import is_long
from unigrec.core.models.cpu.operators import linear, uses_cpu_backward
from unigrec.core.models.layers import Dropout, Linear, RMSNorm, attend
from unigrec.core.models.repeat_bias import RepeatBias

START = 0  # row of the token table: the decoder's first input


@dataclass(frozen=True)
class RecommenderConfig:
    """The shape of the network.

    Attributes:
        disambiguation: number of disambiguation codes, which tell colliding items apart; 0 for none.
        causal: if true, the tokens of an item attend only to tokens of that and of earlier items. One pass over a
            sequence then encodes each of its prefixes.
        repeat_bias: add a learned number to the last code's logit of the history's own items.
        merge: the encoder reads one token per item, projected from those of its levels, instead of one per level.
        vector_width: numbers of the item vectors that the encoder reads with the codes; 0: it reads codes alone.
        decoder: beam: each code depends on the codes before it, and items are found by beam search. set: the codes do
            not depend on each other, so one pass scores every item.
        buckets: number of relative position buckets. max_distance: distance from which all share the last bucket.
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
    repeat_bias: bool = False
    merge: bool = False
    vector_width: int = 0
    decoder: Literal["beam", "set"] = "beam"
    buckets: int = 32
    max_distance: int = 128

    @property
    def code_sizes(self) -> list[int]:
        """Number of codes that each decoder position chooses from."""
        return [self.codebook_size] * self.levels + ([self.disambiguation] if self.disambiguation else [])

    @property
    def tokens_per_item(self) -> int:
        """Tokens that the encoder reads per item."""
        return 1 if self.merge else self.levels

    @property
    def vocabulary(self) -> int:
        """Rows of the token table: the start row and one row per code."""
        return 1 + sum(self.code_sizes)

    def to_dict(self) -> dict:
        return asdict(self)


class Recommender(nn.Module):
    """An encoder of the soft identifiers of a history and a decoder of the next item's codes.

    Decoder position l chooses among the codes of level l only. With `decoder="beam"` its cross entropy is over the
    range of that level. With `decoder="set"` an item's score is the sum of its codes' logits, and the only cross
    entropy is over the catalogue.
    """

    def __init__(self, config: RecommenderConfig):
        super().__init__()
        if config.decoder not in ("beam", "set"):
            raise ValueError(f"the decoder is {config.decoder!r}; it can be beam or set")
        self.config = config
        self.token_table = nn.Embedding(config.vocabulary, config.d_model)
        self.encoder = Stack(config, config.encoder_layers, decoder=False)
        self.decoder = Stack(config, config.decoder_layers, decoder=True)
        # What the positions of a set decoder read: codes tell them nothing.
        self.queries = nn.Embedding(len(config.code_sizes), config.d_model) if config.decoder == "set" else None
        self.repeat_bias = RepeatBias() if config.repeat_bias else None
        width = config.levels * config.d_model
        self.merged = Linear(width, config.d_model, bias=False) if config.merge else None
        if self.merged is not None:
            nn.init.normal_(self.merged.weight, std=width**-0.5)
        self.of_vectors = Linear(config.vector_width, config.d_model, bias=False) if config.vector_width else None
        if self.of_vectors is not None:
            nn.init.normal_(self.of_vectors.weight, std=config.vector_width**-0.5)
        nn.init.normal_(self.token_table.weight, std=1.0)
        offsets = [1]
        for size in config.code_sizes:
            offsets.append(offsets[-1] + size)
        self.offsets = offsets  # first table row of each position's range, and the end

    @torch.no_grad()
    def start_from_codebooks(self, codebooks: Tensor) -> None:
        """Give near codewords near tokens: each level's rows become a random projection of its codebook.

        Rows keep unit variance. Codes that few items have then also profit from what is learned for near codes.
        codebooks: (L, K, C).
        """
        _, K, C = codebooks.shape
        for level, codebook in enumerate(codebooks):
            centred = codebook - codebook.mean(0)
            projection = torch.randn(C, self.config.d_model, device=codebook.device) / C**0.5
            rows = centred / centred.std().clamp_min(1e-12) @ projection
            self.token_table.weight[1 + level * K : 1 + (level + 1) * K] = rows

    def level_table(self, position: int) -> Tensor:
        """Rows of the token table that belong to a position: (size of its range, E)."""
        return self.token_table.weight[self.offsets[position] : self.offsets[position + 1]]

    def embed_soft(self, probabilities: Tensor) -> Tensor:
        """Expectation of the level's rows under the soft identifier: (..., L, K) -> (..., L, E).

        With one-hot assignments this is the table lookup.
        """
        L, K = self.config.levels, self.config.codebook_size
        tables = self.token_table.weight[1 : 1 + L * K].view(L, K, -1)
        return torch.einsum("...lk,lke->...le", probabilities, tables)

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Table lookup of codes, each in the range of its position: (..., T) int64 -> (..., T, E)."""
        shift = torch.tensor(self.offsets[: codes.shape[-1]], dtype=torch.int64, device=codes.device)
        return self.token_table(codes + shift)

    def item_tokens(self, tokens: Tensor, vectors: Tensor | None) -> Tensor:
        """What the encoder reads of items, from the tokens of their levels: (..., L, E) -> (..., L or 1, E).

        vectors: (..., vector_width) of the items. They tell apart what codes do not. Not read where the width is 0.
        """
        read = tokens if self.merged is None else self.merged(tokens.flatten(-2))[..., None, :]
        if self.of_vectors is None:
            return read
        assert vectors is not None
        return read + self.of_vectors(vectors)[..., None, :]

    def encode(self, source: Tensor, mask: Tensor) -> Tensor:
        """Encoder output: source (B, S, E), mask (B, S) true where a token exists -> (B, S, E)."""
        return self.encoder(source, mask)

    def decode(self, memory: Tensor, mask: Tensor, codes: Tensor) -> Tensor:
        """Teacher forcing: codes (B, R, T) of R identifiers per target -> decoder output (B, R, T, E).

        Position l reads the codes before it, of its own identifier. The first position reads none, so it is computed
        once for all identifiers of a target. A set decoder reads no codes: R is 1 in its output. With memory (M, S, E)
        and mask (M, m, S), a history has m targets, B = M * m in all, and the mask tells which tokens each may read.
        """
        B, R, T = codes.shape
        if self.config.decoder == "set":
            return self.decode_set(memory, mask)[:, None]
        start = self.token_table.weight[START].expand(B, 1, -1)
        inputs = torch.cat([start, self.embed_codes(codes[..., :-1]).flatten(1, 2)], dim=1)  # (B, 1 + R * (T - 1), E)
        output = self.decoder(inputs, None, memory, mask, identifiers=R)
        first, rest = output[:, None, :1].expand(-1, R, -1, -1), output[:, 1:].unflatten(1, (R, T - 1))
        return torch.cat([first, rest], dim=2)

    def decode_set(self, memory: Tensor, mask: Tensor) -> Tensor:
        """The output of a set decoder, (B, T, E), for memory and mask as in `decode`."""
        assert self.queries is not None
        targets = mask.shape[:-1].numel()
        return self.decoder(self.queries.weight.expand(targets, -1, -1), None, memory, mask)

    def all_logits(self, output: Tensor) -> list[Tensor]:
        """Logits over the codes of every position: decoder output (..., T, E) -> (..., size of its range) each."""
        return [self.position_logits(output[..., place, :], place) for place in range(output.shape[-2])]

    def position_logits(self, output: Tensor, position: int) -> Tensor:
        """Logits over the codes of a position, from the decoder output there: (..., E) -> (..., size of its range)."""
        return linear(output * self.config.d_model**-0.5, self.level_table(position))


class Stack(nn.Module):
    """The layers of an encoder or a decoder, with one relative position bias for all of them."""

    def __init__(self, config: RecommenderConfig, layers: int, decoder: bool):
        super().__init__()
        self.is_decoder = decoder
        # Tokens per item, or 0: not causal.
        self.causal_group = config.tokens_per_item if config.causal and not decoder else 0
        self.buckets, self.max_distance = config.buckets, config.max_distance
        self.position_bias = nn.Embedding(config.buckets, config.heads)
        # A causal encoder does not know which item is the last. This bias tells the decoder how far back an item is.
        self.tokens_per_item = config.tokens_per_item
        self.recency_bias = nn.Embedding(config.buckets, config.heads) if decoder and config.causal else None
        self.layers = nn.ModuleList([Layer(config, decoder) for _ in range(layers)])
        self.norm = RMSNorm(config.d_model)
        self.dropout = Dropout(config.dropout)
        nn.init.normal_(self.position_bias.weight, std=config.d_model**-0.5)
        if self.recency_bias is not None:
            nn.init.normal_(self.recency_bias.weight, std=config.d_model**-0.5)

    def memory_bias(self, mask: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
        """Bias (M, 1 or H, 1 or m * steps, S) that is added to the scores of cross-attention.

        mask: (M, S), or (M, m, S) for m targets per history with `steps` query positions each. True for the tokens that
        may be read; they come first.
        """
        bias = additive_mask(mask, dtype)
        if self.recency_bias is not None:
            tokens = torch.arange(mask.shape[-1], device=mask.device)
            last = mask.sum(-1, keepdim=True) - 1
            items_back = (last - tokens) // self.tokens_per_item  # 0 for the last readable item
            recency = self.recency_bias(items_back.clamp(0, self.buckets - 1))
            recency = recency.movedim(-1, 1)  # (M, H, S) or (M, H, m, S)
            bias = bias + (recency if mask.dim() == 3 else recency[:, :, None]).to(dtype)
        return bias if mask.dim() == 2 else bias.repeat_interleave(steps, dim=2)

    def bias(self, tokens: int, device: torch.device, identifiers: int = 1) -> Tensor:
        """Relative position bias (1, H, tokens, tokens); causal in the decoder, over items in a causal encoder.

        identifiers: in the decoder, number of identifiers that follow the first position, each blind to the others.
        """
        place = torch.arange(tokens, device=device)
        position, branch = place, torch.zeros_like(place)  # of each token in its identifier, and which one it is
        if identifiers > 1 and tokens > 1:
            length = (tokens - 1) // identifiers
            position = torch.where(place > 0, (place - 1) % length + 1, 0)
            branch = torch.where(place > 0, (place - 1) // length, -1)
        query, key = position[:, None], position[None, :]
        distance = key - query
        bucket = relative_bucket(distance, not self.is_decoder, self.buckets, max_distance=self.max_distance)
        bias = self.position_bias(bucket).permute(2, 0, 1)[None]
        if self.is_decoder:
            other = (branch[:, None] != branch) & (key > 0)
            bias = bias.masked_fill((distance > 0) | other, float("-inf"))
        elif self.causal_group:
            bias = bias.masked_fill(key // self.causal_group > query // self.causal_group, float("-inf"))
        return bias

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        identifiers: int = 1,
    ) -> Tensor:
        """One pass: hidden (B, T, E), mask (B, T) true where a token exists -> (B, T, E).

        memory: (M, S, E), each read by B / M consecutive rows of `hidden`.
        memory_mask: (M, S), or (M, m, S), where each of the m masks holds for B / (M * m) consecutive rows.
        identifiers: as in `bias`.
        """
        bias = self.bias(hidden.shape[1], hidden.device, identifiers).to(hidden.dtype)
        key_mask = mask if uses_cpu_backward(hidden) and is_long(*bias.shape[2:]) else None
        if mask is not None and key_mask is None:
            bias = bias + additive_mask(mask, hidden.dtype)
        cross_bias = None
        if memory_mask is not None:
            masks = memory_mask.shape[:-1].numel()  # 0 on a rank without rows
            cross_bias = self.memory_bias(memory_mask, hidden.shape[:2].numel() // max(masks, 1), hidden.dtype)
        hidden = self.dropout(hidden)
        for layer in self.layers:
            hidden = layer(hidden, bias, memory, cross_bias=cross_bias, key_mask=key_mask)
        return self.dropout(self.norm(hidden))


class Layer(nn.Module):
    """Self-attention, cross-attention in the decoder, and feed-forward; each with a norm before it and a residual."""

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
        """hidden (B, T, E), memory (M, S, E) -> (B, T, E).

        bias: broadcastable to (B, H, T, T). cross_bias: broadcastable to (M, H, B / M * T, S).
        key_mask: (B, T), true where a position may be read, if `bias` does not hide the others; only for `fused`.
        """
        if uses_cpu_backward(hidden):
            return self.fused(hidden, bias, memory, cross_bias=cross_bias, key_mask=key_mask)
        normed = self.self_norm(hidden)
        key, value = self.self_attention.keys_values(normed)
        hidden = hidden + self.dropout(self.self_attention(normed, key, value, bias=bias))
        if self.cross_attention is not None:
            assert memory is not None
            hidden = hidden + self.cross(hidden, *self.cross_keys_values(memory), bias=cross_bias)
        return hidden + self.feed_forward(hidden)

    def fused(
        self, hidden: Tensor, bias: Tensor, memory: Tensor | None, cross_bias: Tensor | None, key_mask: Tensor | None
    ) -> Tensor:
        """The same as `forward`, with each sublayer as one step of autograd."""
        # Self-attention: one matmul gives queries, keys and values.
        p, attention = self.dropout.p if self.training else 0.0, self.self_attention
        weight = torch.cat([attention.query.weight, attention.key.weight, attention.value.weight])
        hidden = fused.attention(
            hidden,
            None,
            self.self_norm.weight,
            weight=weight,
            out=attention.out.weight,
            bias=bias,
            heads=attention.heads,
            p=p,
            mask=key_mask,
        )
        if self.cross_attention is not None:
            assert memory is not None
            assert cross_bias is not None
            assert self.cross_norm is not None
            # Cross-attention: all positions that read the same memory become queries of one sequence.
            grouped = hidden.reshape(len(memory), -1, hidden.shape[-1])
            inputs = self.cross_attention.cross_inputs(memory, cross_bias, grouped.shape[1])
            hidden = fused.attention(
                grouped,
                inputs.memory,
                self.cross_norm.weight,
                weight=inputs.weight,
                out=inputs.out,
                bias=inputs.bias,
                heads=inputs.heads,
                p=p,
            ).view_as(hidden)
        return fused.feed_forward(hidden, self.feed_norm.weight, self.feed_in.weight, out=self.feed_out.weight, p=p)

    def cross_keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the memory for `cross`."""
        assert self.cross_attention is not None
        return self.cross_attention.keys_values(memory)

    def cross(self, hidden: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Cross-attention of hidden (B, T, E); keys and values (M, H, S, d_kv) serve B / M consecutive rows each."""
        assert self.cross_attention is not None
        assert self.cross_norm is not None
        queries = len(hidden) // max(len(key), 1) * hidden.shape[1]  # per memory; 0 on a rank without rows
        grouped = self.cross_norm(hidden).reshape(len(key), queries, hidden.shape[-1])
        return self.dropout(self.cross_attention(grouped, key, value, bias=bias)).view_as(hidden)

    def feed_forward(self, hidden: Tensor) -> Tensor:
        """(B, T, E) -> (B, T, E), without the residual."""
        inner = self.dropout(F.relu(self.feed_in(self.feed_norm(hidden))))
        return self.dropout(self.feed_out(inner))


class CrossAttentionInputs(NamedTuple):
    """The arguments of `fused.attention` for a memory; their shapes are described there."""

    memory: Tensor
    weight: Tensor
    out: Tensor
    bias: Tensor
    heads: int


class FoldedWeights(NamedTuple):
    """Products of an attention's weights per head. They act on the memory itself, without keys and values."""

    scores: Tensor  # (H, E, E) K_h' Q_h: its products with a query position and with a memory token are scores
    values: Tensor  # (H, E, E) O_h V_h: from a memory token to what it adds to the residual stream


class Attention(nn.Module):
    """Multi-head attention without scaling of the scores, as in T5."""

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
        """(B, S, E) -> keys and values, each (B, H, S, d_kv)."""
        return self.split(self.key(hidden)), self.split(self.value(hidden))

    def fold(self) -> FoldedWeights:
        """Multiply weights with each other: q_h k_h = (Q_h x)' (K_h y) = (K_h' Q_h x)' y, and O_h v_h = O_h V_h y."""
        query, key, value = (part.weight.unflatten(0, (self.heads, -1)) for part in (self.query, self.key, self.value))
        out = self.out.weight.unflatten(1, (self.heads, -1)).transpose(0, 1)  # (H, E, d_kv)
        return FoldedWeights(key.mT @ query, out @ value)

    def cross_inputs(self, memory: Tensor, bias: Tensor, queries: int) -> CrossAttentionInputs:
        """How `queries` positions of each sequence read a memory (B, S, E) with the fewest multiplications.

        Few queries need fewer with folded weights. Then the memory itself is key and value, and one head has the
        queries of all heads. bias: broadcastable to (B, H, queries, S).
        """
        heads, d, E = self.heads, self.d_kv, memory.shape[-1]
        if queries * (E - d) * (E + memory.shape[1]) >= memory.shape[1] * E * d:
            keys_values = linear(memory, torch.cat([self.key.weight, self.value.weight]))
            keys_values = keys_values.unflatten(-1, (2, heads, d))
            return CrossAttentionInputs(keys_values, self.query.weight, self.out.weight, bias=bias, heads=heads)
        folded = self.fold()
        weight = folded.scores.flatten(0, 1)  # (H * E, E)
        out = folded.values.transpose(0, 1).flatten(1)  # (E, H * E)
        bias = bias.expand(-1, heads, queries, -1).transpose(1, 2).flatten(1, 2)[:, None]  # (B, 1, queries * H, S)
        return CrossAttentionInputs(memory[:, :, None, None], weight, out, bias=bias, heads=1)

    def forward(self, hidden: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Queries from hidden (B, T, E), key and value (B, H, S, d_kv), bias as in `attend` -> (B, T, E)."""
        context = attend(self.split(self.query(hidden)), key, value, bias=bias, dropout=self.dropout)
        return self.out(context.transpose(1, 2).flatten(-2))


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Mask (B, S) or (B, T, S), true where a token may be read -> bias (B, 1, 1 or T, S) of the scores."""
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


def fit_disambiguation(recommender: Recommender, size: int) -> Recommender:
    """The same recommender with room for `size` disambiguation codes. New rows start at the mean of the old ones."""
    old = recommender.config
    if old.disambiguation == size:
        return recommender
    resized = Recommender(type(old)(**(old.to_dict() | {"disambiguation": size})))
    weights = recommender.state_dict()
    first = recommender.offsets[old.levels]
    rows = weights["token_table.weight"][first:]
    missing = max(size - len(rows), 0)
    filled = torch.cat([rows[:size], rows.mean(0, keepdim=True).expand(missing, -1)]) if len(rows) else None
    table = resized.token_table.weight.detach().clone()
    table[:first] = weights["token_table.weight"][:first]
    if filled is not None:
        table[first:] = filled
    resized.load_state_dict(weights | {"token_table.weight": table})
    return resized
