"""Layers: dropout, RMSNorm, linear layers and attention.

They compute what torch's own layers compute (tests compare values and gradients). In training on a CPU they use the
operators of `cpu`, which take fewer passes over memory than torch's and draw several random numbers at a time. On a GPU
they use torch's own operators.

Shapes: B sequences, H heads, T queries, S keys, d width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unigrec.core.models.cpu.operators import EPS, RMSNormFunction, draw_dropout_mask, linear, uses_cpu_backward


class Dropout(nn.Module):
    """Dropout with probability `p`, rounded to a multiple of 1 / 65536 on a CPU. Draws from torch's generator."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, hidden: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return hidden
        if hidden.device.type != "cpu":
            return F.dropout(hidden, self.p)
        return hidden * draw_dropout_mask(hidden.shape, self.p).to(hidden.dtype).mul_(1.0 / (1.0 - self.p))


class RMSNorm(nn.Module):
    """Root mean square norm over the last dimension, times a gain."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden: Tensor) -> Tensor:
        if uses_cpu_backward(hidden):
            result: Tensor = RMSNormFunction.apply(hidden, self.weight)
            return result
        return F.rms_norm(hidden, self.weight.shape, self.weight, EPS)


class Linear(nn.Linear):
    """`torch.nn.Linear`, computed by `linear`."""

    def forward(self, rows: Tensor) -> Tensor:
        return linear(rows, self.weight, self.bias)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: Dropout) -> Tensor:
    """Attention without scaling of the scores, as T5 has it.

    query (B, H, T, d), key and value (B, H, S, d) -> (B, H, T, d). bias: added to the scores, broadcastable to
    (B, H, T, S), with at least one finite entry per row.
    """
    p = dropout.p if dropout.training else 0.0
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=p, scale=1.0)
