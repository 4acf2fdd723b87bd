"""Operators for a CPU: linear layers and RMSNorm with our own backward, dropout masks, matmuls by oneDNN or MKL.

Shapes: N rows, n input width, m output width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def is_from_intel(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether MKL, which torch multiplies with in single precision, uses this processor to the full.

    On others it leaves half of the vector unit unused, and oneDNN takes half the time. On Intel's, oneDNN is a tenth
    slower in a training step, and slower the fewer rows a product has.
    """
    return cpuinfo.is_file() and "GenuineIntel" in cpuinfo.read_text()


EPS = 1e-6  # added to the mean square in every norm
# Whether matmuls call oneDNN by name. Some builds of torch lack the call.
ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise") and not is_from_intel()
MANY_ROWS = 16  # with fewer, the call of oneDNN takes longer than the multiplication
# Entries of a dropout mask drawn in one piece, a multiple of four: their random bits, 256 kB, stay in the cache.
ENTRIES_AT_ONCE = 1 << 17


def uses_cpu_backward(hidden: Tensor) -> bool:
    """True if our own backward pass should be used: training, CPU, float32, at least one row."""
    return (
        torch.is_grad_enabled() and hidden.device.type == "cpu" and hidden.dtype == torch.float32 and hidden.numel() > 0
    )


def working_dtype() -> torch.dtype:
    """The precision of matmuls: that of autocast if it is on, else float32."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def draw_dropout_mask(shape: torch.Size, p: float, dtype: torch.dtype = torch.uint8) -> Tensor:
    """A mask on the CPU: 1 with probability 1 - p, else 0. Every 64 random bits give four entries."""
    mask = torch.empty(shape.numel(), dtype=dtype)
    for start in range(0, len(mask), ENTRIES_AT_ONCE):
        part = mask[start : start + ENTRIES_AT_ONCE]
        bits = torch.empty((len(part) + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        # Comparisons into bool, and conversions from bool, take torch several times as long.
        torch.ge(bits[: len(part)], round(p * 65536) - 32768, out=part)
    return mask.view(shape)


def mask_dtype(dtype: torch.dtype) -> torch.dtype:
    """What `mask_in_place` reads: bytes, or numbers as wide as values in half precision."""
    return torch.uint8 if dtype == torch.float32 else torch.int16


def mask_in_place(values: Tensor, mask: Tensor) -> Tensor:
    """values times a mask of 0 and 1 of `mask_dtype`, in place.

    In half precision both are multiplied as whole numbers, which takes torch a third of the time. A number that is
    infinite or not a number, and dropped, becomes 0 there.
    """
    if values.dtype == torch.float32:
        return values.mul_(mask.to(values.dtype))
    values.view(torch.int16).mul_(mask)
    return values


class RMSNormFunction(Function):
    """RMSNorm; torch's own backward pass on a CPU takes eight times as long as its forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        inverse_rms = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True).square_().div_(hidden.shape[-1])
        inverse_rms = inverse_rms.add_(EPS).rsqrt_()
        normed = hidden * inverse_rms
        ctx.save_for_backward(normed, inverse_rms, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        normed, inverse_rms, weight = ctx.saved_tensors
        (grad_output,) = grad_outputs
        weighted = grad_output * normed
        grad_weight = weighted.flatten(0, -2).sum(0)
        projection = (weighted.flatten(0, -2) @ weight).view(inverse_rms.shape).div_(normed.shape[-1])
        grad_hidden = (grad_output * weight).sub_(normed * projection).mul_(inverse_rms)
        return grad_hidden, grad_weight


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows @ weight.T + bias: (..., n), (m, n), (m,) -> (..., m), in float32 or in the precision of autocast."""
    if not uses_cpu_backward(rows):
        return matmul(rows, weight, bias=bias)
    dtype = working_dtype()
    with torch.autocast("cpu", enabled=False):
        result: Tensor = LinearFunction.apply(rows.to(dtype), weight, bias)
    return result


class LinearFunction(Function):
    """rows @ weight.T + bias, in the precision of the rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        flat = padded(rows.flatten(0, -2))
        ctx.save_for_backward(flat, weight)
        ctx.shape = rows.shape
        result = cpu_matmul(flat, weight.to(rows.dtype), bias=None if bias is None else bias.to(rows.dtype))
        return result[: rows.shape[:-1].numel()].view(*rows.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        flat, grad_rows = padded(grad_output.flatten(0, -2)), None
        if ctx.needs_input_grad[0]:
            grad_rows = cpu_matmul(flat, weight.to(rows.dtype).T)[: ctx.shape[:-1].numel()].view(ctx.shape)
        grad_weight = weight_gradient(flat, rows) if ctx.needs_input_grad[1] else None
        return grad_rows, grad_weight, flat.sum(0) if ctx.needs_input_grad[2] else None


def row_buffer(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """An uninitialised buffer (at least `rows`, width); the rows beyond `rows` are zero.

    oneDNN compiles and caches a matmul for each number of rows, which takes as long as a small matmul itself. The
    number of rows is therefore rounded up to one of eight sizes per power of two, so that few sizes occur. With MKL
    too: dropout masks have as many rows, so a seed draws the same masks on every processor.
    """
    step = max(1 << max(rows.bit_length() - 4, 0), 8)
    buffer = torch.empty(-(-rows // step) * step, width, dtype=dtype)
    buffer[rows:].zero_()
    return buffer


def padded(rows: Tensor) -> Tensor:
    """rows (N, n), with zero rows appended to the size of a `row_buffer`; not copied if N is such a size.

    The result is contiguous: oneDNN multiplies parts of a wider matrix several times as slowly.
    """
    buffer = row_buffer(len(rows), rows.shape[1], rows.dtype)
    if len(buffer) == len(rows):
        return rows.contiguous()
    buffer[: len(rows)] = rows
    return buffer


def cpu_matmul(rows: Tensor, weight: Tensor, activation: str = "none", bias: Tensor | None = None) -> Tensor:
    """activation(rows @ weight.T + bias): (..., n), (m, n), (m,) -> (..., m). activation: none or relu.

    Calls oneDNN by name where that is faster than MKL, which torch would call in single precision. Not differentiable.
    """
    if ONEDNN:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, activation, [], "")
        return result
    result = F.linear(rows, weight, bias)
    return result.relu_() if activation == "relu" else result


def matmul(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`cpu_matmul` for any device and precision, and differentiable. Uses oneDNN where that is faster."""
    single = rows.dtype == weight.dtype == torch.float32 and rows.device.type == "cpu"
    many = rows.numel() >= MANY_ROWS * rows.shape[-1]
    if single and many and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"):
        return cpu_matmul(rows, weight, bias=bias)
    return F.linear(rows, weight, bias)


def weight_gradient(grad_output: Tensor, rows: Tensor) -> Tensor:
    """Gradient of a weight in single precision, from those of the output (N, m) and the input rows (N, n) -> (m, n)."""
    narrow_first = grad_output.shape[1] > rows.shape[1]  # the first operand is transposed, and copied for it
    if grad_output.dtype != torch.float32:
        return (rows.T @ grad_output).T.float() if narrow_first else (grad_output.T @ rows).float()
    if narrow_first:
        return cpu_matmul(rows.T, grad_output.T).T
    return cpu_matmul(grad_output.T, rows.T)
