"""The teacher: SASRec (arXiv 1808.09781), trained with cross entropy over the full catalogue.

Post-norm blocks, and item and position embeddings normalised together: with full cross entropy, regularisation is what
matters most. Shapes: B users, T positions, E width, N items.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SASRec(nn.Module):
    """Causal self-attention over a history of items.

    Sequences are padded on the right, so that causality alone hides the padding; the last item of a history of length n
    always has the position `history - 1`, whatever n is.

    Args:
        items: N. d_model: E. history: longest history, in items.
    """

    def __init__(self, items: int, d_model: int, blocks: int, heads: int, history: int, dropout: float):
        super().__init__()
        self.history = history
        self.item_embedding = nn.Embedding(items, d_model)
        self.position_embedding = nn.Embedding(history, d_model)
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList([Block(d_model, heads, dropout) for _ in range(blocks)])
        nn.init.normal_(self.item_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding.weight, std=0.02)

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """items (B, T) int64 padded on the right, T <= history; lengths (B,) -> hidden states (B, T, E)."""
        steps = torch.arange(items.shape[1], device=items.device)
        positions = (self.history - lengths[:, None] + steps).clamp(max=self.history - 1)  # (B, T)
        hidden = self.dropout(self.norm(self.item_embedding(items) + self.position_embedding(positions)))
        for block in self.blocks:
            hidden = block(hidden)
        return hidden

    def scores(self, hidden: Tensor) -> Tensor:
        """(..., E) -> (..., N) logits over the catalogue."""
        return hidden @ self.item_embedding.weight.T

    def last_hidden(self, items: Tensor, lengths: Tensor) -> Tensor:
        """The state after the last item of each history: (B, T), (B,) -> (B, E)."""
        return self.forward(items, lengths)[torch.arange(len(items), device=items.device), lengths - 1]


class Block(nn.Module):
    """Self-attention and feed-forward, each with residual, dropout and LayerNorm after it."""

    def __init__(self, d_model: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.attention_norm = nn.LayerNorm(d_model)
        self.feed_forward = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.feed_forward_norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        B, T, E = hidden.shape
        query, key, value = self.qkv(hidden).view(B, T, 3, self.heads, E // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, dropout_p=self.dropout.p if self.training else 0.0
        )  # (B, H, T, E/H)
        mixed = mixed.transpose(1, 2).reshape(B, T, E)
        hidden = self.attention_norm(hidden + self.dropout(self.out(mixed)))
        return self.feed_forward_norm(hidden + self.dropout(self.feed_forward(hidden)))
