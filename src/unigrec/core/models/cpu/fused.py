"""The transformer's sublayers as single steps of autograd, for training on a CPU.

A step of a small transformer on a CPU is bound by passes over memory and by how fast matrices are multiplied. Here a
sublayer (norm, attention or feed-forward, dropout, residual) keeps each activation once, a dropout mask in a byte an
entry, and takes few passes: the norm's gain and dropout's scale are folded into weights, which are small. Values and
gradients are those of the plain operators (tests compare).

Everything between the residual stream, which is single precision, and the sum onto it is computed in `dtype`; softmax
and norms are always in single precision.

Shapes: B sequences, T positions, N = B * T rows, S positions that are read, E width, H heads of d, F inner width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from unigrec.core.models.cpu.blocked import Given, Gradients, mix, unmix
from unigrec.core.models.cpu.operators import (
    EPS,
    keep_mask,
    padded,
    product,
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
    there: Tensor | None = None,
) -> Tensor:
    """hidden + dropout(attention(norm(hidden))), with scores that are not scaled, as T5 has it.

    Args:
        hidden: (B, T, E). gain: (E,) of the norm. p: dropout, of the attention's weights and of what comes out.
        memory: None for self-attention. Else what is read: (B, S, 2, heads, d) keys and values, or (B, S, 1, heads, d)
            where one tensor is both.
        weight: (3 * heads * d, E) queries, keys and values; with memory the queries alone, (r * heads * d, E): each
            position has r of them.
        out: (E, r * heads * d). bias: broadcastable to (B, heads, r * T, S), added to the scores; at least one finite
            entry in every row.
        there: (B, S), true where there is something to read, as `bias` may also say; None for all.
    """
    dtype = working_dtype()
    with torch.autocast("cpu", enabled=False):
        memory = None if memory is None else memory.to(dtype)
        result: Tensor = _Attention.apply(hidden, memory, gain, weight, out, bias, there, heads, p, dtype)
    return result


def feed_forward(hidden: Tensor, gain: Tensor, inner: Tensor, out: Tensor, p: float) -> Tensor:
    """hidden + dropout(dropout(relu(norm(hidden) @ inner.T)) @ out.T).

    hidden (B, T, E), gain (E,), inner (F, E), out (E, F) -> (B, T, E).
    """
    dtype = working_dtype()
    with torch.autocast("cpu", enabled=False):
        result: Tensor = _FeedForward.apply(hidden, gain, inner, out, p, dtype)
    return result


class _Attention(Function):
    """With n = h / rms(h), W = weight * gain, masks m and m', s = 1 / (1 - p):

    q, k, v = n W^T;  a = softmax(q k^T + bias);  x = (a m) v;  result = h + s m' (x (s out)^T)
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
        there: Tensor | None,
        heads: int,
        p: float,
        dtype: torch.dtype,
    ) -> Tensor:
        kinds, width = (3, len(weight) // (3 * heads)) if memory is None else (1, memory.shape[-1])
        normed, scale = normalise(hidden, dtype)
        rows = len(scale)
        joined = product(normed, (weight * gain).to(dtype))[:rows].view(len(hidden), -1, kinds, heads, width)
        query, key, value = _query_key_value(joined, memory)
        kept = None if p == 0.0 else keep_mask(torch.Size([*query.shape[:3], key.shape[2]]), p)
        mixed = row_buffer(rows, query.numel() // max(rows, 1), dtype)
        mix(Given(query, key, value, bias.transpose(0, 1), there, kept), _by_head(mixed[:rows], joined))
        result = product(mixed, out.to(dtype))[:rows].view_as(hidden)
        kept_out = None if p == 0.0 else keep_mask(result.shape, p)
        ctx.save_for_backward(normed, scale, joined, memory, kept, kept_out, gain, weight, out, bias, there)
        ctx.factor = (1.0 - p) ** -2
        return _onto(hidden, result, kept_out, ctx.factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        normed, scale, joined, memory, kept, kept_out, gain, weight, out, bias, there = ctx.saved_tensors
        dtype = normed.dtype
        query, key, value = _query_key_value(joined, memory)
        rows = len(scale)
        by_result = padded(_dropped(gradient, kept_out).to(dtype).flatten(0, -2))  # (N, E)
        by_mixed = product(by_result, (out * ctx.factor).to(dtype).T)  # (N, r * H * d)
        mixed = row_buffer(rows, by_mixed.shape[1], dtype)
        by_product = row_buffer(rows, joined.numel() // rows, dtype)
        by_joined, by_memory = by_product[:rows].view_as(joined), None if memory is None else torch.empty_like(memory)
        by_query, by_key, by_value = _query_key_value(by_joined, by_memory)
        by_bias = bias.new_zeros(bias.transpose(0, 1).shape) if ctx.needs_input_grad[5] else None
        unmix(
            Given(query, key, value, bias.transpose(0, 1), there, kept),
            _by_head(by_mixed[:rows], joined),
            Gradients(
                by_query,
                by_key,
                None if by_memory is not None and by_memory.shape[2] == 1 else by_value,
                by_bias,
            ),
            _by_head(mixed[:rows], joined),
        )
        by_bias = None if by_bias is None else by_bias.transpose(0, 1)
        by_out = weight_gradient(by_result, mixed).mul_(ctx.factor)
        by_folded = weight_gradient(by_product, normed)
        by_normed = product(by_product, (weight * gain).to(dtype).T)
        by_hidden = normalise_backward(by_normed[:rows], normed[:rows], scale, gradient)
        by_weight, by_gain = by_folded * gain, (by_folded * weight).sum(0)
        return by_hidden, by_memory, by_gain, by_weight, by_out, by_bias, None, None, None, None


class _FeedForward(Function):
    """With n = h / rms(h), W = inner * gain, masks m and m', s = 1 / (1 - p):

    x = m relu(n W^T);  result = h + s m' (x (s out)^T)
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, gain: Tensor, inner: Tensor, out: Tensor, p: float, dtype: torch.dtype
    ) -> Tensor:
        normed, scale = normalise(hidden, dtype)
        between = product(normed, (inner * gain).to(dtype), "relu")  # (N, F)
        if p > 0.0:
            between.mul_(keep_mask(between.shape, p).to(dtype))
        result = product(between, out.to(dtype))[: len(scale)].view_as(hidden)
        kept_out = None if p == 0.0 else keep_mask(result.shape, p)
        ctx.save_for_backward(normed, scale, between, kept_out, gain, inner, out)
        ctx.factor = (1.0 - p) ** -2
        return _onto(hidden, result, kept_out, ctx.factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        normed, scale, between, kept_out, gain, inner, out = ctx.saved_tensors
        dtype = normed.dtype
        rows, by_result = len(scale), padded(_dropped(gradient, kept_out).to(dtype).flatten(0, -2))  # (N, E)
        by_out = weight_gradient(by_result, between).mul_(ctx.factor)
        by_between = product(by_result, (out * ctx.factor).to(dtype).T)
        # Zero where relu or dropout made a zero.
        torch.ops.aten.threshold_backward(by_between, between, 0, grad_input=by_between)
        by_folded = weight_gradient(by_between, normed)
        by_normed = product(by_between, (inner * gain).to(dtype).T)
        by_hidden = normalise_backward(by_normed[:rows], normed[:rows], scale, gradient)
        return by_hidden, (by_folded * inner).sum(0), by_folded * gain, by_out, None, None


def normalise(hidden: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(B, T, E) -> a `row_buffer` (N, E) of rows with a mean square of 1; and (N, 1), what each was multiplied by."""
    rows = hidden.flatten(0, -2)
    scale = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).square_().div_(rows.shape[-1]).add_(EPS).rsqrt_()
    normed = row_buffer(len(rows), rows.shape[1], dtype)
    torch.mul(rows, scale, out=normed[: len(rows)])
    return normed, scale


def normalise_backward(by_normed: Tensor, normed: Tensor, scale: Tensor, residual: Tensor) -> Tensor:
    """Gradient of `normalise`'s input, and that of the residual beside it: (N, E) twice, (N, 1), (B, T, E)."""
    by_normed, normed = by_normed.float(), normed.float()
    along = torch.linalg.vecdot(by_normed, normed).div_(-normed.shape[-1])[:, None]
    by_rows = torch.addcmul(by_normed, normed, along)
    return torch.addcmul(residual, by_rows.view_as(residual), scale.view(*residual.shape[:-1], 1))


def _dropped(values: Tensor, kept: Tensor | None) -> Tensor:
    return values if kept is None else values * kept.to(values.dtype)


def _onto(hidden: Tensor, result: Tensor, kept: Tensor | None, factor: float) -> Tensor:
    """hidden + factor * kept * result."""
    if kept is None:
        return hidden + result
    return torch.addcmul(hidden, result.float(), kept.float(), value=factor)


def _query_key_value(joined: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Views (H, B, positions, d) of (B, T, kinds, H, d) and of the memory where there is one."""
    query = joined[:, :, 0]
    key, value = (joined[:, :, 1], joined[:, :, 2]) if memory is None else (memory[:, :, 0], memory[:, :, -1])
    return query.permute(2, 0, 1, 3), key.permute(2, 0, 1, 3), value.permute(2, 0, 1, 3)


def _by_head(rows: Tensor, joined: Tensor) -> Tensor:
    """View (H, B, r * T, d) of (N, r * H * d)."""
    return rows.view_as(joined[:, :, 0]).permute(2, 0, 1, 3)
