"""Dropout, RMSNorm, linear maps, attention and the loss over a large catalogue, as cheap as the machine allows.

The mathematics is that of torch's own operators (tests compare values and gradients). Where torch's CPU operators take
several passes over memory, or draw one random number a time, these do not; on a GPU torch's own are used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

EPS = 1e-6  # of the norms
ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")  # not in every build
MANY_ROWS = 16  # below, calling oneDNN takes longer than multiplying
ENTRIES_AT_ONCE = 1 << 17  # of a dropout mask, a multiple of four: their random bits, 256 kB, stay in the cache
ROWS_AT_ONCE = 128  # of the logits over a catalogue: few enough to stay in the processor's cache


def applies(hidden: Tensor) -> bool:
    """Whether what this goes into has an own backward pass: in training, on a CPU, and for any row at all."""
    return (
        torch.is_grad_enabled() and hidden.device.type == "cpu" and hidden.dtype == torch.float32 and hidden.numel() > 0
    )


def working_dtype() -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


class Dropout(nn.Module):
    """Dropout with probability `p` (to 1 / 65536), from torch's generator."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, hidden: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return hidden
        if hidden.device.type != "cpu":
            return F.dropout(hidden, self.p)
        return hidden * keep_mask(hidden.shape, self.p).to(hidden.dtype).mul_(1.0 / (1.0 - self.p))


def keep_mask(shape: torch.Size, p: float) -> Tensor:
    """Mask on the CPU, 1 with probability 1 - p and else 0: uint8, four entries of every 64 random bits."""
    mask = torch.empty(shape.numel(), dtype=torch.uint8)
    for start in range(0, len(mask), ENTRIES_AT_ONCE):
        part = mask[start : start + ENTRIES_AT_ONCE]
        bits = torch.empty((len(part) + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        # Comparisons that give bool, and conversions from it, take torch several times as long.
        torch.ge(bits[: len(part)], round(p * 65536) - 32768, out=part)
    return mask.view(shape)


class RMSNorm(nn.Module):
    """Root mean square norm with a gain, over the last dimension."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden: Tensor) -> Tensor:
        if applies(hidden):
            result: Tensor = _RMSNorm.apply(hidden, self.weight)
            return result
        return F.rms_norm(hidden, self.weight.shape, self.weight, EPS)


class _RMSNorm(Function):
    """Torch's own backward pass on a CPU takes eight times as long as its forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        scale = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True).square_().div_(hidden.shape[-1])
        scale = scale.add_(EPS).rsqrt_()
        normed = hidden * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        normed, scale, weight = ctx.saved_tensors
        (gradient,) = gradients
        product = gradient * normed
        by_weight = product.flatten(0, -2).sum(0)
        along = (product.flatten(0, -2) @ weight).view(scale.shape).div_(normed.shape[-1])
        by_hidden = (gradient * weight).sub_(normed * along).mul_(scale)
        return by_hidden, by_weight


class Linear(nn.Linear):
    """torch's, by `linear`."""

    def forward(self, rows: Tensor) -> Tensor:
        return linear(rows, self.weight, self.bias)


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows @ weight.T + bias: (..., n), (m, n), (m,) -> (..., m), in single precision or in that of autocast."""
    if not applies(rows):
        return plain_product(rows, weight, bias=bias)
    dtype = working_dtype()
    with torch.autocast("cpu", enabled=False):
        result: Tensor = _Linear.apply(rows.to(dtype), weight, bias)
    return result


class _Linear(Function):
    """rows @ weight.T + bias, in the precision of the rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        flat = padded(rows.flatten(0, -2))
        ctx.save_for_backward(flat, weight)
        ctx.shape = rows.shape
        result = product(flat, weight.to(rows.dtype), bias=None if bias is None else bias.to(rows.dtype))
        return result[: rows.shape[:-1].numel()].view(*rows.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        flat, by_rows = padded(gradient.flatten(0, -2)), None
        if ctx.needs_input_grad[0]:
            by_rows = product(flat, weight.to(rows.dtype).T)[: ctx.shape[:-1].numel()].view(ctx.shape)
        by_weight = weight_gradient(flat, rows) if ctx.needs_input_grad[1] else None
        return by_rows, by_weight, flat.sum(0) if ctx.needs_input_grad[2] else None


def row_buffer(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """(at least `rows`, width) to be written to, zero beyond `rows`.

    oneDNN compiles a product anew for each number of rows, which takes as long as a small product itself, and keeps
    it. Numbers are rounded up, to eight in each power of two, so that few of them occur.
    """
    step = max(1 << max(rows.bit_length() - 4, 0), 8)
    buffer = torch.empty(-(-rows // step) * step, width, dtype=dtype)
    buffer[rows:].zero_()
    return buffer


def padded(rows: Tensor) -> Tensor:
    """(N, n) with as many rows as a `row_buffer` has; itself where it has them already."""
    buffer = row_buffer(len(rows), rows.shape[1], rows.dtype)
    if len(buffer) == len(rows):
        return rows
    buffer[: len(rows)] = rows
    return buffer


def product(rows: Tensor, weight: Tensor, activation: str = "none", bias: Tensor | None = None) -> Tensor:
    """activation(rows @ weight.T + bias): (..., n), (m, n), (m,) -> (..., m). activation: none or relu.

    In single precision oneDNN is asked by name: torch would ask MKL, which on some processors leaves half of the vector
    unit unused.
    """
    if ONEDNN:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, activation, [], "")
        return result
    result = F.linear(rows, weight, bias)
    return result.relu_() if activation == "relu" else result


def plain_product(rows: Tensor, weight: Tensor, activation: str = "none", bias: Tensor | None = None) -> Tensor:
    """As `product`, on any device, in any precision and of however many rows; oneDNN's has no gradient."""
    single = rows.dtype == weight.dtype == torch.float32 and rows.device.type == "cpu"
    many = rows.numel() >= MANY_ROWS * rows.shape[-1]
    if single and many and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"):
        return product(rows, weight, activation, bias)
    result = F.linear(rows, weight, bias)
    return result.relu() if activation == "relu" else result


def weight_gradient(gradient: Tensor, rows: Tensor) -> Tensor:
    """Single precision gradient of a weight: (N, m) of what `product` gave, (N, n) its rows -> (m, n)."""
    if gradient.dtype != torch.float32:
        return (gradient.T @ rows).float()
    if gradient.shape[1] > rows.shape[1]:  # the narrower one first: oneDNN lays the second out anew
        return product(rows.T, gradient.T).T
    return product(gradient.T, rows.T)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: Dropout) -> Tensor:
    """Attention without scaling of the scores, as T5 has it.

    query (B, H, T, d), key and value (B, H, S, d), bias broadcastable to (B, H, T, S), with at least one finite entry
    in every row -> (B, H, T, d).
    """
    p = dropout.p if dropout.training else 0.0
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=p, scale=1.0)


def catalogue_cross_entropy(hidden: Tensor, table: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy of `hidden @ table.T` over a whole catalogue, without ever holding all logits.

    Loss and gradients are computed together, some rows at a time, while their logits are in the cache.

    Args:
        hidden: (B, E). table: (N, E). targets: (B,) int64. smoothing: share of the target spread evenly over all items.
    """
    result: Tensor = _CatalogueCrossEntropy.apply(hidden, table, targets, smoothing)
    return result


class _CatalogueCrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        rows = ROWS_AT_ONCE if hidden.device.type == "cpu" else 32 * ROWS_AT_ONCE
        by_hidden, by_table = torch.empty_like(hidden), torch.zeros_like(table)
        total = hidden.new_zeros(())
        for start in range(0, len(hidden), rows):
            part, target = hidden[start : start + rows], targets[start : start + rows, None]
            logits = part @ table.T
            own = logits.gather(1, target)
            total += (1.0 - smoothing) * -own.sum()
            if smoothing:
                total -= smoothing * logits.mean(1).sum()
            largest = logits.amax(1, keepdim=True)
            exponentials = logits.sub_(largest).exp_()
            normaliser = exponentials.sum(1, keepdim=True)
            total += (normaliser.log() + largest).sum()
            error = exponentials.div_(normaliser)
            if smoothing:
                error -= smoothing / len(table)
            error.scatter_add_(1, target, torch.full_like(own, smoothing - 1.0))
            torch.mm(error, table, out=by_hidden[start : start + rows])
            by_table.addmm_(error.T, part)
        ctx.save_for_backward(by_hidden.div_(len(hidden)), by_table.div_(len(hidden)))
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_hidden, by_table = ctx.saved_tensors
        return by_hidden * gradients[0], by_table * gradients[0], None, None


class LinearMap(NamedTuple):
    """weight (D_out, D_in), bias (D_out,)."""

    weight: Tensor
    bias: Tensor


def ridge_regression(inputs: Tensor, targets: Tensor, ridge: float) -> LinearMap:
    """Least squares from inputs (N, D_in) to targets (N, D_out). ridge: relative to the inputs' mean variance."""
    centre, target_centre = inputs.mean(0), targets.mean(0)
    x, y = (inputs - centre).double(), (targets - target_centre).double()
    moments = x.T @ x
    penalty = ridge * moments.diagonal().mean().clamp_min(1e-12)
    moments += penalty * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
    weight = torch.linalg.solve(moments, x.T @ y).T.to(inputs.dtype)
    return LinearMap(weight, target_centre - weight @ centre)
