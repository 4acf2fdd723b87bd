"""A GPU in name only: its tensors are CPU tensors with a mark, and what CUDA refuses of a mix of devices is an error.

It finds code that forgets to move a tensor, where there is no GPU. It knows nothing of CUDA's kernels and rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)
# What takes tensors of two devices, or reads none of their values.
FREE = {
    *("copy_", "to", "type", "type_as", "cpu", "cuda", "set_", "register_hook", "_has_compatible_shallow_copy_type"),
    *("size", "dim", "numel", "stride", "is_floating_point", "is_same_size", "__len__", "__repr__", "__set__"),
    *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "view_as", "expand_as", "sum_to_size"),
    *("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"),
}


class MixedDevices(RuntimeError):
    """An operator got tensors of the GPU and of the CPU."""


class PretendedGpu(TorchFunctionMode):
    """While it is entered, tensors may be made on `GPU` and moved to it and back."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", str(func))
        if func in ACCESS:
            return ACCESS[func](func, *args)
        if name in ("numpy", "__array__") and is_marked(args[0]):
            raise MixedDevices(f"{name} of a tensor on the GPU")
        if name in ("to", "cpu") and isinstance(args[0], Tensor):
            return _moved(args[0], [*args[1:], *kwargs.values()], to_cpu=name == "cpu")
        asked = kwargs.get("device")
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        marked = [tensor for tensor in given if is_marked(tensor)]
        others = [tensor for tensor in given if not is_marked(tensor) and tensor.dim() > 0]
        if marked and others and name not in FREE and not _may_mix(name, args):
            shapes = [[tuple(tensor.shape) for tensor in found] for found in (marked, others)]
            raise MixedDevices(f"{name}: {shapes[0]} on the GPU, {shapes[1]} on the CPU")
        out = func(*args, **kwargs)
        if asked is not None:
            mark = torch.device(asked).type == GPU.type
        elif name.startswith("new_") or name.endswith("_like"):
            mark = is_marked(args[0])
        else:
            mark = bool(marked)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (mark or asked is not None):
                tensor._on_gpu = mark
        return out


def is_marked(tensor: Any) -> bool:
    """Whether a tensor is on the pretended GPU."""
    return getattr(tensor, "_on_gpu", False) is True


def _set_data(func: Callable[..., Any], tensor: Tensor, value: Tensor) -> None:
    func(tensor, value)
    tensor._on_gpu = is_marked(value)


ACCESS: dict[Any, Callable[..., Any]] = {
    Tensor.device.__get__: lambda func, tensor, *_: GPU if is_marked(tensor) else func(tensor),
    Tensor.is_cuda.__get__: lambda func, tensor, *_: is_marked(tensor),
    Tensor.is_cpu.__get__: lambda func, tensor, *_: not is_marked(tensor),
    Tensor.data.__set__: _set_data,
    Tensor.grad.__set__: lambda func, *args: func(*args),
}


def _moved(tensor: Tensor, wanted: list[Any], to_cpu: bool) -> Tensor:
    """As `Tensor.to`: the same tensor if nothing changes, else a copy."""
    mark, kind = False if to_cpu else is_marked(tensor), tensor.dtype
    for value in wanted:
        if isinstance(value, str | torch.device):
            mark = torch.device(value).type == GPU.type
        elif isinstance(value, torch.dtype):
            kind = value
        elif isinstance(value, Tensor):
            mark, kind = is_marked(value), value.dtype
    out = tensor.to(kind)
    if out is tensor and mark != is_marked(tensor):
        out = tensor.clone()
    if out is not tensor:
        out._on_gpu = mark
    return out


def _may_mix(name: str, args: Sequence[Any]) -> bool:
    """Indices of a tensor on the GPU may be on the CPU, and a slice may be filled from another device."""
    if name == "__getitem__":
        return is_marked(args[0])
    if name != "__setitem__":
        return False
    tensor, index, value = args
    leaves = tree_leaves(index)
    if not any(isinstance(leaf, Tensor | np.ndarray | list) for leaf in leaves):
        return True
    index_fits = is_marked(tensor) or not any(map(is_marked, leaves))
    if isinstance(value, Tensor) and value.dim() > 0:
        return is_marked(value) == is_marked(tensor) and index_fits
    return index_fits
