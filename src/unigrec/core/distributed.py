"""Collective operations for losses over the global batch. Without a process group each of them is the identity."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def leave_process_group() -> None:
    """Destroy the process group, if there is one. NCCL warns about processes that end without this."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank_slices(size: int) -> list[slice]:
    """The contiguous rows of a batch of `size` rows that belong to each rank. Their numbers differ by at most one."""
    base, extra = divmod(size, world_size())
    starts = [number * base + min(number, extra) for number in range(world_size() + 1)]
    return [slice(*ends) for ends in pairwise(starts)]


def gather_rows(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """The rows of all ranks, in rank order. Rows of other ranks are detached; rows of this rank keep their gradient.

    A loss over the result is the same on every rank. Its gradient is the part of this rank times the world size, so the
    average over ranks is the gradient of the whole batch.

    Args:
        rows: (n, ...) of this rank. sizes: number of rows of each rank.
    """
    if world_size() == 1:
        return rows
    padded = torch.zeros(max(sizes), *rows.shape[1:], dtype=rows.dtype, device=rows.device)
    padded[: len(rows)] = rows.detach()
    gathered = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(gathered, padded)
    pieces = [piece[:size] for piece, size in zip(gathered, sizes, strict=True)]
    pieces[rank()] = rows.detach() + (rows - rows.detach()) * world_size()
    return torch.cat(pieces)


def global_sum(local: Tensor) -> Tensor:
    """Sum over ranks. The gradient is scaled by the world size, so its average over ranks is that of the sum."""
    if world_size() == 1:
        return local
    total = local.detach().clone()
    dist.all_reduce(total)
    return total + (local - local.detach()) * world_size()


def mean_over_ranks(values: Tensor) -> Tensor:
    """Mean over ranks, the same bits on each rank. A value that is not finite on one rank is not finite in the mean."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world_size()


def values_of_ranks(value: int, device: torch.device) -> list[int]:
    """An integer of each rank, in rank order."""
    if world_size() == 1:
        return [value]
    own = torch.tensor([value], device=device)
    gathered = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(gathered, own)
    return [int(one) for one in gathered]


def of_first_rank(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """Rank 0's numbers, on every rank. All ranks call it with the same names."""
    if world_size() == 1:
        return values
    numbers = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    dist.broadcast(numbers, src=0)
    return dict(zip(values, numbers.tolist(), strict=True))
