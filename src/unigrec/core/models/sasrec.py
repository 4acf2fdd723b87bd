"""The teacher: SASRec (arXiv 1808.09781) or BSARec (arXiv 2312.10325), trained with full cross entropy.

Blocks are post-norm, and the sum of item and position embedding is normalised: with full cross entropy, regularisation
matters most. Shapes: B users, T positions, E width, N items, D content dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unigrec.core.models.layers import Dropout
from unigrec.core.models.repeat_bias import RepeatBias

ROWS_AT_ONCE = 2**16  # items whose content is projected together


class States(NamedTuple):
    """The states of P places of histories, and what the repeat bias adds to the scores after them."""

    hidden: Tensor  # (P, E)
    items: Tensor | None  # (P, T); None without a repeat bias
    bonus: Tensor | None  # (P, T)


class SASRec(nn.Module):
    """Causal self-attention over a history of items; with `filter_share` > 0 also a low-pass filter (BSARec).

    Sequences are padded on the right, so causality alone hides the padding. The last item always has the position
    `history - 1`, for every length of the history.

    Args:
        items: N. d_model: E. history: longest history, in items.
        filter_share: weight of the frequency filter against attention, in [0, 1]; 0 for SASRec.
        filter_components: number of lowest frequencies of a full history that the filter keeps unchanged.
        content_dim: D, width of the content vectors whose projection is added to the item embeddings; 0 for none.
        repeat_bias: add a learned number to the scores of the history's own items.
    """

    def __init__(
        self,
        items: int,
        d_model: int,
        blocks: int,
        heads: int,
        history: int,
        dropout: float,
        filter_share: float = 0.0,
        filter_components: int = 1,
        content_dim: int = 0,
        repeat_bias: bool = False,
    ):
        super().__init__()
        self.history = history
        self.item_embedding = nn.Embedding(items, d_model)
        self.position_embedding = nn.Embedding(history, d_model)
        self.norm = nn.LayerNorm(d_model)
        self.dropout = Dropout(dropout)
        filtered = (history, filter_components) if filter_share else None
        self.blocks = nn.ModuleList(
            [Block(d_model, heads, dropout, filter_share=filter_share, filtered=filtered) for _ in range(blocks)]
        )
        self.content_projection = nn.Linear(content_dim, d_model, bias=False) if content_dim else None
        self.repeat_bias = RepeatBias() if repeat_bias else None
        self.content: Tensor | None
        self.register_buffer("content", None, persistent=False)
        self.content_scale = 1.0  # divides the content
        nn.init.normal_(self.item_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding.weight, std=0.02)
        if self.content_projection is not None:
            nn.init.normal_(self.content_projection.weight, std=0.02)

    def item_table(self) -> Tensor:
        """(N, E) item embeddings: the free ones, plus the projected content if there is content."""
        if self.content is None or self.content_projection is None:
            return self.item_embedding.weight
        if self.content_scale == 1.0:
            return self.item_embedding.weight + self.content_projection(self.content)
        pieces = torch.arange(len(self.content), device=self.content.device).split(ROWS_AT_ONCE)
        return torch.cat([self.item_rows(piece) for piece in pieces])

    def item_rows(self, items: Tensor) -> Tensor:
        """(M, E) rows of the item table, without the others; gradients of the free embeddings are sparse.

        items: (M,) distinct item indices.
        """
        rows = F.embedding(items, self.item_embedding.weight, sparse=True)
        if self.content is None or self.content_projection is None:
            return rows
        return rows + self.content_projection(self.content[items] / self.content_scale)

    @torch.no_grad()
    def without_content(self) -> SASRec:
        """Add the projected content to the free embeddings and drop it: the model then needs no content."""
        self.item_embedding.weight.copy_(self.item_table())
        self.content, self.content_projection, self.content_scale = None, None, 1.0
        return self

    def forward(self, items: Tensor, lengths: Tensor, table: Tensor | None = None) -> Tensor:
        """Hidden states (B, T, E) from items (B, T) int64, padded on the right, T <= history; lengths (B,).

        table: `item_table()`, if the caller has computed it already.
        """
        table = self.item_table() if table is None else table
        steps = torch.arange(items.shape[1], device=items.device)
        positions = (self.history - lengths[:, None] + steps).clamp(max=self.history - 1)  # (B, T)
        hidden = self.dropout(self.norm(F.embedding(items, table) + self.position_embedding(positions)))
        for block in self.blocks:
            hidden = block(hidden)
        return hidden

    def scores(self, items: Tensor, lengths: Tensor, table: Tensor | None = None) -> Tensor:
        """Logits over the catalogue after each history: (B, T), (B,) -> (B, N). table: as in `forward`."""
        table = self.item_table() if table is None else table
        logits = self.last_hidden(items, lengths, table) @ table.T
        if self.repeat_bias is None:
            return logits
        return logits.scatter_add(1, items, self.repeat_bias(items, lengths[:, None])[:, 0])

    def scores_of(self, items: Tensor, lengths: Tensor, wanted: Tensor) -> Tensor:
        """As `scores`, for some items alone, the same or others for each history: wanted (K,) or (B, K) -> (B, K)."""
        return self.scores_at(self.last_states(items, lengths), wanted)

    def last_states(self, items: Tensor, lengths: Tensor) -> tuple[States, ...]:
        """As `states_at`, after the last item of each history: (B, T), (B,)."""
        bonus = None if self.repeat_bias is None else self.repeat_bias(items, lengths[:, None])[:, 0]
        return (States(self.last_hidden(items, lengths), None if bonus is None else items, bonus),)

    def states_at(self, items: Tensor, lengths: Tensor, mask: Tensor) -> tuple[States, ...]:
        """What `block_scores` needs at the places of the mask (B, T): one entry, as there is one member."""
        hidden = self.forward(items, lengths)[mask]
        repeats = (None, None) if self.repeat_bias is None else self.repeat_bias.at_places(items, mask)
        return (States(hidden, *repeats),)

    @torch.no_grad()
    def block_scores(self, states: Sequence[States], items: slice) -> Tensor:
        """(P, n) logits of n neighbouring items of the catalogue after P places."""
        ((hidden, read, bonus),) = states
        logits = hidden @ self.item_table()[items].T
        if read is None or bonus is None:
            return logits
        inside = (read >= items.start) & (read < items.stop)
        return logits.scatter_add_(1, (read - items.start).masked_fill(~inside, 0), bonus.masked_fill(~inside, 0.0))

    @torch.no_grad()
    def scores_at(self, states: Sequence[States], items: Tensor) -> Tensor:
        """As `block_scores`, of some items, the same or others after each of P places: (K,) or (P, K) -> (P, K)."""
        ((hidden, read, bonus),) = states
        vectors = F.embedding(items, self.item_table())
        logits = hidden @ vectors.T if items.dim() == 1 else (vectors @ hidden[:, :, None])[..., 0]
        if read is None or bonus is None:
            return logits
        same = read[:, :, None] == items.expand(len(read), -1)[:, None]  # (P, T, K); a bias is at one of its places
        return torch.baddbmm(logits[:, None], bonus[:, None], same.to(bonus.dtype))[:, 0]

    def item_vectors(self) -> Tensor:
        """(N, E) the item embeddings, without gradients."""
        return self.item_table().detach()

    def last_hidden(self, items: Tensor, lengths: Tensor, table: Tensor | None = None) -> Tensor:
        """The state after the last item of each history: (B, T), (B,) -> (B, E)."""
        return self.forward(items, lengths, table)[torch.arange(len(items), device=items.device), lengths - 1]


class Block(nn.Module):
    """Self-attention (and a frequency filter), then feed-forward, each followed by dropout, residual and LayerNorm."""

    def __init__(self, d_model: int, heads: int, dropout: float, filter_share: float, filtered: tuple[int, int] | None):
        super().__init__()
        self.heads, self.filter_share = heads, filter_share
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.attention_norm = nn.LayerNorm(d_model)
        self.filter = FrequencyFilter(d_model, *filtered) if filtered else None
        self.filter_norm = nn.LayerNorm(d_model) if filtered else None
        self.feed_forward = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.feed_forward_norm = nn.LayerNorm(d_model)
        self.dropout = Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        B, T, E = hidden.shape
        query, key, value = self.qkv(hidden).view(B, T, 3, self.heads, E // self.heads).permute(2, 0, 3, 1, 4)
        context = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, dropout_p=self.dropout.p if self.training else 0.0
        )  # (B, H, T, E/H)
        context = context.transpose(1, 2).reshape(B, T, E)
        attended = self.attention_norm(hidden + self.dropout(self.out(context)))
        if self.filter is not None and self.filter_norm is not None:
            filtered = self.filter_norm(hidden + self.dropout(self.filter(hidden)))
            attended = self.filter_share * filtered + (1.0 - self.filter_share) * attended
        return self.feed_forward_norm(attended + self.dropout(self.feed_forward(attended)))


class FrequencyFilter(nn.Module):
    """Keeps the low frequencies of a sequence; scales the others by the square of a learned factor per dimension.

    The frequencies at a position are those of the history up to it, padded with zeros in front to full length. That is
    a convolution with a fixed causal kernel: all positions are trained at once, and none sees later items.
    """

    def __init__(self, d_model: int, history: int, components: int):
        super().__init__()
        self.history, self.components = history, components
        self.rescale = nn.Parameter(torch.empty(d_model))
        nn.init.normal_(self.rescale)
        # (history, history), row: output position. Made when it is needed: a network may be built without memory.
        self._toeplitz: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, E) -> (B, T, E)."""
        if self._toeplitz is None or self._toeplitz.device != hidden.device:
            with torch.inference_mode(False):  # what inference mode makes, a later training could not use
                kernel = low_pass_kernel(self.history, self.components)
                lags = torch.arange(len(kernel))[:, None] - torch.arange(len(kernel))
                toeplitz = torch.where(lags >= 0, kernel[lags.clamp_min(0)], 0.0)
                self._toeplitz = toeplitz.to(hidden.device)
        steps = hidden.shape[1]
        low = self._toeplitz[:steps, :steps] @ hidden
        return low + self.rescale.square() * (hidden - low)


def low_pass_kernel(length: int, components: int) -> Tensor:
    """(length,) weight of each lag in the filter that keeps the `components` lowest frequencies of `length` points."""
    lags = torch.arange(length, dtype=torch.float64)
    kernel = torch.ones(length, dtype=torch.float64)
    for frequency in range(1, components):
        twice = 1.0 if 2 * frequency == length else 2.0  # the highest frequency of an even length has no mirror
        kernel += twice * torch.cos(2.0 * math.pi * frequency * lags / length)
    return (kernel / length).float()
