"""From a loss to an optimizer step: plain torch, or DeepSpeed at stage 0. No other module imports DeepSpeed.

A loss is computed through `engine.forward`: the model as the engine wants it called.

Both engines compute the same step. Gradients are averaged over ranks, clipped to norm 1 per parameter group, and
applied by torch's AdamW. Plain torch can also take sparse gradients of a table's rows (`LazyAdamW`).
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unigrec.core.distributed import world_size
from unigrec.core.training.lazy_adam import LazyAdamW

CLIP_NORM = 1.0
STALLED_PEER = timedelta(minutes=5)  # a rank that waits longer for another rank gives up


class TorchEngine:
    """Plain torch. With several ranks, gradients are averaged over them."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        self.model = model
        self.forward = model
        self.optimizer = optimizer

    def step(self, loss: Tensor) -> None:
        """One update from the loss of this rank."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        for parameter in trained:  # as in DeepSpeed, a missing gradient is a gradient of zero
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            elif parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
        if world_size() > 1:
            average_gradients(trained)
        clip_gradients(self.optimizer)
        self.optimizer.step()


class DeepSpeedEngine:
    """DeepSpeed at stage 0 averages gradients and runs the step; clipping, optimizer and checkpoints are ours."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, batch_size: int):
        deepspeed = _import_deepspeed()
        config = {
            "train_batch_size": max(batch_size // world_size(), 1) * world_size(),
            "gradient_clipping": 0.0,  # the default is 1.0, over all groups together
            "zero_optimization": {"stage": 0},
        }
        self.engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=config, dist_init_required=False
        )
        self.model = model
        self.forward = self.engine
        self.optimizer = optimizer

    def step(self, loss: Tensor) -> None:
        """One update from the loss of this rank."""
        self.engine.backward(loss)  # also averages gradients over ranks
        clip_gradients(self.optimizer)
        self.engine.step()


Engine = TorchEngine | DeepSpeedEngine


def make_engine(
    kind: str, model: nn.Module, groups: list[dict[str, Any]], batch_size: int, lazy: bool = False
) -> Engine:
    """An engine over AdamW with the given parameter groups.

    kind: torch or deepspeed. lazy: with torch, gradients may be sparse; of such a parameter only rows are updated.
    """
    optimizer = (LazyAdamW if lazy else torch.optim.AdamW)(groups, fused=True)
    return DeepSpeedEngine(model, optimizer, batch_size) if kind == "deepspeed" else TorchEngine(model, optimizer)


def clip_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Clip the gradients of each parameter group separately to norm `CLIP_NORM`.

    The tokenizer's gradient passes through a softmax at a temperature of 0.001, which magnifies it. In a common norm it
    would set the step size of the recommender.
    """
    for group in optimizer.param_groups:
        if not any(p.grad is not None and p.grad.is_sparse for p in group["params"]):
            nn.utils.clip_grad_norm_(group["params"], CLIP_NORM)
            continue
        values = [gradient_values(p) for p in group["params"] if p.grad is not None]
        factor = (CLIP_NORM / (nn.utils.get_total_norm(values) + 1e-6)).clamp(max=1.0)
        for value in values:
            value.mul_(factor)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Average the gradients over ranks, in one all-reduce of a flat buffer. Sparse ones have the same rows on each."""
    values = [gradient_values(p) for p in parameters]
    flat = torch.cat([value.flatten() for value in values])
    dist.all_reduce(flat)
    flat /= world_size()
    for value, piece in zip(values, flat.split([value.numel() for value in values]), strict=True):
        value.copy_(piece.view_as(value))


def gradient_values(parameter: nn.Parameter) -> Tensor:
    """The numbers of a parameter's gradient; of a sparse one, which is coalesced, those of its rows."""
    assert parameter.grad is not None
    return parameter.grad.values() if parameter.grad.is_sparse else parameter.grad


def start_process_group(device: torch.device, needed: bool) -> None:
    """Join the ranks that torchrun started. Without them, make a group of one if the engine needs a group."""
    if dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # torchrun has put the ranks' address into the environment.
        dist.init_process_group(backend, timeout=STALLED_PEER)
    elif needed:
        # A group of one lives in memory: no port, no address.
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def _import_deepspeed() -> Any:
    """Import DeepSpeed for the process group that exists already.

    Three things are switched off: its launcher's search for ranks, MLflow and a compiled extension.
    """
    # Set what DeepSpeed's launcher would set.
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    os.environ.setdefault("LOCAL_RANK", "0")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # Hide MLflow during the import: DeepSpeed's unused autotuner would import it, which takes a second per start.
    hidden = sys.modules.setdefault("mlflow", None) is None  # type: ignore[arg-type]  # None: the import fails
    try:
        import deepspeed
    finally:
        if hidden:
            del sys.modules["mlflow"]
    from deepspeed.ops import __compatible_ops__
    from deepspeed.utils import groups

    # Do without the shared-memory extension, which would be compiled at every start.
    __compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(auto_mpi_discovery=False)
    # DeepSpeed clones the group of all ranks without its time limit: a stalled rank would hang the others for ever.
    groups._WORLD_GROUP = dist.new_group(range(world_size()), timeout=STALLED_PEER)
    return deepspeed
