"""The few collective operations of batch-wide losses. Without a process group every one of them is the identity."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def leave_process_group() -> None:
    """Take leave of the other ranks, where there are any: NCCL complains about a process that just ends."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank_slices(size: int) -> list[slice]:
    """The contiguous rows of a batch of `size` that belong to each rank; sizes differ by at most one."""
    base, extra = divmod(size, world_size())
    starts = [number * base + min(number, extra) for number in range(world_size() + 1)]
    return [slice(*ends) for ends in pairwise(starts)]


def gather_rows(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """All ranks' rows, `sizes` of them, in rank order: others' detached, this rank's own with its gradient in place.

    A loss over the result is the same on every rank. Its gradient is this rank's part times the world size: averaged
    over ranks it is the whole batch's.
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
    """Sum over ranks. The gradient is this rank's part times the world size: averaged over ranks it is the sum's."""
    if world_size() == 1:
        return local
    total = local.detach().clone()
    dist.all_reduce(total)
    return total + (local - local.detach()) * world_size()


def mean_over_ranks(values: Tensor) -> Tensor:
    """Mean over ranks, the same bits on each; not finite where a rank's value is not finite."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world_size()
