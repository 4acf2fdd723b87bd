"""From a loss to an optimizer step: plain torch, or DeepSpeed at stage 0. No other module imports DeepSpeed.

A loss is computed through `engine.forward`: the model as the engine wants it called.

Both engines compute the same step. Gradients are averaged over ranks, clipped to norm 1 per parameter group, and
applied by torch's AdamW.
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


def make_engine(kind: str, model: nn.Module, groups: list[dict[str, Any]], batch_size: int) -> Engine:
    """An engine over AdamW with the given parameter groups. kind: torch or deepspeed."""
    optimizer = torch.optim.AdamW(groups, fused=True)
    return DeepSpeedEngine(model, optimizer, batch_size) if kind == "deepspeed" else TorchEngine(model, optimizer)


def clip_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Clip the gradients of each parameter group separately to norm `CLIP_NORM`.

    The tokenizer's gradient passes through a softmax at a temperature of 0.001, which magnifies it. In a common norm it
    would set the step size of the recommender.
    """
    for group in optimizer.param_groups:
        nn.utils.clip_grad_norm_(group["params"], CLIP_NORM)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Average the gradients over ranks, in one all-reduce of a flat buffer."""
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    dist.all_reduce(flat)
    flat /= world_size()
    for parameter, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = piece.view_as(parameter)


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
