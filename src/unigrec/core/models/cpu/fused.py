"""The transformer's sublayers as single steps of autograd, for training on a CPU.

On a CPU the time of a small transformer's training step goes into passes over memory and into matmuls. Here a sublayer
(norm, attention or feed-forward, dropout, residual) saves each activation once and a dropout mask as one or two bytes
per entry. It takes few passes over memory: the norm's gain and the scale of dropout are folded into the weights, which
are small. Values and gradients equal those of torch's operators (tests compare them).

The residual stream, norms and softmax are in single precision; the rest of a sublayer is computed in `dtype`.

Shapes: B sequences, T positions, N = B * T rows, S memory positions, E width, H heads of width d, F inner width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from unigrec.core.models.cpu.blocked import (
    AttentionGrads,
    AttentionInputs,
    attention_backward,
    attention_forward,
    dense_if_half,
)
from unigrec.core.models.cpu.operators import (
    EPS,
    cpu_matmul,
    draw_dropout_mask,
    mask_dtype,
    mask_in_place,
    padded,
    row_buffer,
    weight_gradient,
    working_dtype,
)


def attention(
    hidden: Tensor,
    memory: Tensor | None,
    gain: Tensor,
    weight: Tensor,
    out: Tensor,
    bias: Tensor,
    heads: int,
    p: float,
    mask: Tensor | None = None,
) -> Tensor:
    """hidden + dropout(attention(norm(hidden))), without scaling of the scores, as in T5.

    Args:
        hidden: (B, T, E). gain: (E,) of the norm.
        memory: None for self-attention. Otherwise (B, S, 2, heads, d) keys and values, or (B, S, 1, heads, d) if one
            tensor is both.
        weight: projection to queries, keys and values (3 * heads * d, E). With a memory, projection to r queries per
            position (r * heads * d, E).
        out: (E, r * heads * d).
        bias: added to the scores, broadcastable to (B, heads, r * T, S), with at least one finite entry per row.
        p: dropout probability, for the attention weights and for the output.
        mask: (B, S), true where a key may be read; None for all. `bias` may hide keys too.
    """
    dtype = working_dtype()
    with torch.autocast("cpu", enabled=False):
        memory = None if memory is None else memory.to(dtype)
        result: Tensor = _Attention.apply(hidden, memory, gain, weight, out, bias, mask, heads, p, dtype)
    return result


def feed_forward(hidden: Tensor, gain: Tensor, inner: Tensor, out: Tensor, p: float) -> Tensor:
    """hidden + dropout(dropout(relu(norm(hidden) @ inner.T)) @ out.T).

    hidden (B, T, E), gain (E,) of the norm, inner (F, E), out (E, F) -> (B, T, E). p: dropout probability.
    """
    dtype = working_dtype()
    with torch.autocast("cpu", enabled=False):
        result: Tensor = _FeedForward.apply(hidden, gain, inner, out, p, dtype)
    return result


class _Attention(Function):
    """With n = h / rms(h), W = weight * gain, dropout masks m and m', s = 1 / (1 - p)^2:

    q, k, v = n W^T;  a = softmax(q k^T + bias);  x = (a m) v;  result = h + s m' (x out^T)
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        memory: Tensor | None,
        gain: Tensor,
        weight: Tensor,
        out: Tensor,
        bias: Tensor,
        mask: Tensor | None,
        heads: int,
        p: float,
        dtype: torch.dtype,
    ) -> Tensor:
        projections, width = (3, len(weight) // (3 * heads)) if memory is None else (1, memory.shape[-1])
        normed, inverse_rms = normalise(hidden, dtype)
        rows = len(inverse_rms)
        projected = cpu_matmul(normed, (weight * gain).to(dtype))[:rows]
        projected = dense_if_half(_by_head(projected.view(len(hidden), -1, projections, heads, width)))
        memory = None if memory is None else dense_if_half(_by_head(memory))
        query, key, value = _query_key_value(projected, memory)
        attention_dropout = None if p == 0.0 else draw_dropout_mask(torch.Size([*query.shape[:3], key.shape[2]]), p)
        context = row_buffer(rows, query.numel() // rows, dtype)
        weights = attention_forward(
            AttentionInputs(query, key, value, bias.transpose(0, 1), mask=mask, dropout_mask=attention_dropout),
            _heads_like(query, context[:rows]),
        )
        result = cpu_matmul(context, out.to(dtype))[:rows].view_as(hidden)
        output_dropout = None if p == 0.0 else draw_dropout_mask(result.shape, p, mask_dtype(dtype))
        saved = normed, inverse_rms, projected, memory, attention_dropout, output_dropout, gain, weight, out, bias, mask
        ctx.save_for_backward(*saved, weights, None if weights is None else context)
        ctx.dropout_scale = (1.0 - p) ** -2
        return _add_residual(hidden, result, output_dropout, dropout_scale=ctx.dropout_scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        normed, inverse_rms, projected, memory, attention_dropout, output_dropout, *rest = ctx.saved_tensors
        gain, weight, out, bias, mask, weights, context = rest
        dtype = normed.dtype
        query, key, value = _query_key_value(projected, memory)
        rows = len(inverse_rms)
        # Output projection.
        grad_result = padded(_drop(grad_output, output_dropout, dtype).flatten(0, -2))  # (N, E)
        grad_context = cpu_matmul(grad_result, (out * ctx.dropout_scale).to(dtype).T)  # (N, r * H * d)
        if context is None:
            context = row_buffer(rows, grad_context.shape[1], dtype)
        # In single precision attention writes the gradients of queries, keys and values straight into the rows. In half
        # precision it writes dense tensors, which are copied into the rows below.
        grad_rows = row_buffer(rows, projected.numel() // rows, dtype)
        rows_by_head = _by_head(grad_rows[:rows].view(len(grad_output), -1, *projected.shape[:2], query.shape[3]))
        grad_projected = rows_by_head if dtype == torch.float32 else torch.empty_like(projected)
        grad_memory = None if memory is None else torch.empty_like(memory)
        grad_query, grad_key, grad_value = _query_key_value(grad_projected, grad_memory)
        grad_bias = bias.new_zeros(bias.transpose(0, 1).shape) if ctx.needs_input_grad[5] else None
        key_is_value = grad_memory is not None and len(grad_memory) == 1
        attention_backward(
            AttentionInputs(query, key, value, bias.transpose(0, 1), mask=mask, dropout_mask=attention_dropout),
            dense_if_half(_heads_like(query, grad_context[:rows])),
            AttentionGrads(grad_query, grad_key, None if key_is_value else grad_value, bias=grad_bias),
            context=_heads_like(query, context[:rows]),
            kept=weights,
        )
        if grad_projected is not rows_by_head:
            rows_by_head.copy_(grad_projected)
        grad_memory = None if grad_memory is None else grad_memory.movedim((-3, -2), (0, 1))
        grad_bias = None if grad_bias is None else grad_bias.transpose(0, 1)
        grad_out = weight_gradient(grad_result, context).mul_(ctx.dropout_scale)
        # Query, key and value projection with the gain folded into it, then the norm and the residual.
        grad_folded = weight_gradient(grad_rows, normed)
        grad_normed = cpu_matmul(grad_rows, (weight * gain).to(dtype).T)
        grad_hidden = normalise_backward(grad_normed[:rows], normed[:rows], inverse_rms, residual=grad_output)
        grad_weight, grad_gain = grad_folded * gain, (grad_folded * weight).sum(0)
        return grad_hidden, grad_memory, grad_gain, grad_weight, grad_out, grad_bias, None, None, None, None


class _FeedForward(Function):
    """With n = h / rms(h), W = inner * gain, dropout masks m and m', s = 1 / (1 - p)^2:

    x = m relu(n W^T);  result = h + s m' (x out^T)
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, gain: Tensor, inner: Tensor, out: Tensor, p: float, dtype: torch.dtype
    ) -> Tensor:
        normed, inverse_rms = normalise(hidden, dtype)
        activation = cpu_matmul(normed, (inner * gain).to(dtype), "relu")  # (N, F)
        if p > 0.0:
            mask_in_place(activation, draw_dropout_mask(activation.shape, p, mask_dtype(dtype)))
        result = cpu_matmul(activation, out.to(dtype))[: len(inverse_rms)].view_as(hidden)
        output_dropout = None if p == 0.0 else draw_dropout_mask(result.shape, p, mask_dtype(dtype))
        ctx.save_for_backward(normed, inverse_rms, activation, output_dropout, gain, inner, out)
        ctx.dropout_scale = (1.0 - p) ** -2
        return _add_residual(hidden, result, output_dropout, dropout_scale=ctx.dropout_scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        normed, inverse_rms, activation, output_dropout, gain, inner, out = ctx.saved_tensors
        dtype = normed.dtype
        rows = len(inverse_rms)
        grad_result = padded(_drop(grad_output, output_dropout, dtype).flatten(0, -2))  # (N, E)
        grad_out = weight_gradient(grad_result, activation).mul_(ctx.dropout_scale)
        grad_activation = cpu_matmul(grad_result, (out * ctx.dropout_scale).to(dtype).T)
        # The gradient is zero where ReLU or dropout made a zero.
        torch.ops.aten.threshold_backward(grad_activation, activation, 0, grad_input=grad_activation)
        grad_folded = weight_gradient(grad_activation, normed)
        grad_normed = cpu_matmul(grad_activation, (inner * gain).to(dtype).T)
        grad_hidden = normalise_backward(grad_normed[:rows], normed[:rows], inverse_rms, residual=grad_output)
        return grad_hidden, (grad_folded * inner).sum(0), grad_folded * gain, grad_out, None, None


def normalise(hidden: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(B, T, E) -> a `row_buffer` (N, E) of rows with a mean square of 1, and the factor of each row (N, 1)."""
    rows = hidden.flatten(0, -2)
    inverse_rms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).square_().div_(rows.shape[-1]).add_(EPS).rsqrt_()
    normed = row_buffer(len(rows), rows.shape[1], dtype)
    torch.mul(rows, inverse_rms, out=normed[: len(rows)])
    return normed, inverse_rms


def normalise_backward(grad_normed: Tensor, normed: Tensor, inverse_rms: Tensor, residual: Tensor) -> Tensor:
    """Gradient of the input of `normalise`, plus that of the residual connection.

    grad_normed and normed (N, E), inverse_rms (N, 1), residual (B, T, E) -> (B, T, E).
    """
    grad_normed, normed = grad_normed.float(), normed.float()
    projection = torch.linalg.vecdot(grad_normed, normed).div_(-normed.shape[-1])[:, None]
    grad_rows = torch.addcmul(grad_normed, normed, projection)
    return torch.addcmul(residual, grad_rows.view_as(residual), inverse_rms.view(*residual.shape[:-1], 1))


def _drop(values: Tensor, dropout_mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The values times the mask, without the scale of dropout, in `dtype`. The values are in single precision."""
    if dropout_mask is None:
        return values.to(dtype)
    if dtype == torch.float32:
        return values * dropout_mask.to(dtype)
    return mask_in_place(values.to(dtype), dropout_mask)  # a copy: the values are in single precision


def _add_residual(hidden: Tensor, result: Tensor, dropout_mask: Tensor | None, dropout_scale: float) -> Tensor:
    """hidden + dropout_scale * dropout_mask * result; in half precision `result` is overwritten."""
    if dropout_mask is None:
        return hidden + result
    if result.dtype == torch.float32:
        return torch.addcmul(hidden, result, dropout_mask.float(), value=dropout_scale)
    return torch.add(hidden, mask_in_place(result, dropout_mask).float(), alpha=dropout_scale)


def _query_key_value(projected: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Views (H, B, positions, d) of the projections (3 or 1, H, B, r * T, d), and of the memory if it is given."""
    return projected[0], *((projected[1], projected[2]) if memory is None else (memory[0], memory[-1]))


def _by_head(tensor: Tensor) -> Tensor:
    """A view (..., H, B, T, d) of (B, T, ..., H, d)."""
    return tensor.movedim((0, 1), (-3, -2))


def _heads_like(query: Tensor, rows: Tensor) -> Tensor:
    """A view of rows (N, r * H * d) in the shape of the query, (H, B, r * T, d)."""
    heads, sequences, positions, width = query.shape
    return _by_head(rows.view(sequences, positions, heads, width))
