"""The one training loop: every phase supplies its batches, its losses and its validation.

A run is a function of its seed: batches depend on (seed, epoch), dropout on (seed, step, rank).
Killed at any moment and started again, it goes on from the last checkpoint and ends with the same weights (on CPU, the
same bits).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from unigrec.base.errors import TrainingError
from unigrec.core.distributed import mean_over_ranks, rank
from unigrec.core.training.checkpoint import CheckpointFolder, Stopped, load_optimizer, optimizer_tensors
from unigrec.core.training.engine import Engine

Log = Callable[[int, dict[str, float]], None]  # step, metrics


class Run(NamedTuple):
    """How a training runs: everything that is neither its data nor its params.

    Attributes:
        seed: of weights, batches and dropout.
        device: where the network and its batches lie.
        log: called after each epoch, on rank 0.
        checkpoints: where the training saves its state and resumes from it. None: it saves nothing.
    """

    seed: int
    device: torch.device
    log: Log
    checkpoints: CheckpointFolder | None = None


class Trained(NamedTuple):
    """A trained network and its curves.

    Attributes:
        history: one row per epoch with mean losses, validation metrics and the figures that the phase logs.
        kept: the row of the epoch whose weights the model has. Empty if there was no epoch.
    """

    model: nn.Module
    history: list[dict[str, float]]
    kept: dict[str, float]


@dataclass
class Phase:
    """What one kind of training brings to the loop.

    Attributes:
        batches: epoch -> that epoch's batches, the same ones for the same epoch.
        losses: batch, step -> named scalars; the one called `loss` is minimised.
        learning_rate: share of the whole run done so far, in [0, 1) -> factor on each group's own learning rate.
        validate: -> metrics; training keeps the weights with the highest `selects`. None: the last weights are kept.
        start_epoch: called before an epoch's first step; returns figures to log.
        end_epoch: called after an epoch's last step, before it is validated; returns figures to log.
        state: -> tensors of the current epoch that a checkpoint must hold. load_state: takes them back on resume.
    """

    name: str
    epochs: int
    batches: Callable[[int], Sequence[Any]]
    losses: Callable[[Any, int], dict[str, Tensor]]
    learning_rate: Callable[[float], float] = lambda done: 1.0
    validate: Callable[[], dict[str, float]] | None = None
    start_epoch: Callable[[int], dict[str, float]] | None = None
    end_epoch: Callable[[int], dict[str, float]] | None = None
    state: Callable[[], dict[str, Tensor]] = lambda: {}
    load_state: Callable[[dict[str, Tensor]], None] = lambda tensors: None
    validate_first: bool = False  # the weights as given are a candidate too
    validate_every: int = 1
    patience: int = 1_000_000
    selects: str = "validation_ndcg_at_10"


@dataclass
class Progress:
    """Where a run stands. Everything here is in a checkpoint."""

    epoch: int = 0
    batch: int = 0  # next batch of the epoch
    step: int = 0
    best: float = float("-inf")
    best_step: int = -1
    validations_without_gain: int = 0
    stopped: bool = False
    opening: dict[str, float] = field(default_factory=dict)  # figures from the epoch's start
    sums: dict[str, float] = field(default_factory=dict)  # of the epoch so far
    history: list[dict[str, float]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return vars(self) | {"best": None if self.best == float("-inf") else self.best}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progress:
        return cls(**(values | {"best": float("-inf") if values["best"] is None else values["best"]}))


def train(phase: Phase, engine: Engine, run: Run) -> Trained:
    """Run a phase to its end and leave the chosen weights in the engine's model.

    Raises:
        TrainingError: the loss is not finite on some rank; it names phase, epoch, step and the losses. The weights are
            those of the step before.
        Stopped: the checkpoints' `stop` said so.
    """
    training = _Training(phase, engine, run)
    training.resume()
    while training.at.epoch < phase.epochs and not training.at.stopped:
        training.epoch()
    training.save()
    kept = training.restore_best()
    return Trained(training.model, training.at.history, kept)


class _Training:
    """The state of one call of `train`: model and optimizer in the engine, progress, and the best weights so far."""

    def __init__(self, phase: Phase, engine: Engine, run: Run):
        self.phase, self.engine, self.run, self.checkpoints = phase, engine, run, run.checkpoints
        self.model: nn.Module = engine.model
        self.at = Progress()
        self.best_weights: dict[str, Tensor] | None = None
        self.base_rates = [group["lr"] for group in engine.optimizer.param_groups]
        self.saved_at = time.monotonic()

    def epoch(self) -> None:
        """From the next batch to the end of the epoch, with validation where it is due."""
        at, phase = self.at, self.phase
        if phase.validate_first and at.step == 0:
            at.history.append({"epoch": 0, "step": 0} | self.validate())
        if at.batch == 0:
            at.opening = phase.start_epoch(at.epoch) if phase.start_epoch else {}
        batches = phase.batches(at.epoch)
        self.model.train()
        while at.batch < len(batches):
            done = (at.epoch + at.batch / len(batches)) / phase.epochs
            self.step(batches[at.batch], done)
            self.save_when_due()
        row: dict[str, float] = {"epoch": at.epoch + 1, "step": at.step}
        row |= {name: total / len(batches) for name, total in at.sums.items()} | at.opening
        if phase.end_epoch:
            row |= phase.end_epoch(at.epoch)
        if phase.validate and ((at.epoch + 1) % phase.validate_every == 0 or at.epoch + 1 == phase.epochs):
            row |= self.validate()
        at.history.append(row)
        at.epoch, at.batch, at.sums = at.epoch + 1, 0, {}
        if rank() == 0:
            self.run.log(at.step, row)
        self.save_when_due()

    def step(self, batch: Any, done: float) -> None:
        at, factor = self.at, self.phase.learning_rate(done)
        for group, rate in zip(self.engine.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        # Dropout is drawn anew at each step: ranks differ, and a resumed run needs no rank's generator.
        torch.manual_seed(int(np.random.SeedSequence([self.run.seed, at.step, rank()]).generate_state(1)[0]))
        losses = self.phase.losses(batch, at.step)
        means = mean_over_ranks(torch.stack([value.detach().float() for value in losses.values()])).tolist()
        values = dict(zip(losses, means, strict=True))
        if not math.isfinite(values["loss"]):
            figures = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            raise TrainingError(
                f"{self.phase.name}: the loss is not finite at epoch {at.epoch + 1}, step {at.step}: {figures}; "
                "the last checkpoint is from before it. Lower the learning rate, or look for extreme item embeddings"
            )
        self.engine.step(losses["loss"])
        for name, value in values.items():
            at.sums[name] = at.sums.get(name, 0.0) + value
        at.batch += 1
        at.step += 1

    def validate(self) -> dict[str, float]:
        assert self.phase.validate is not None
        self.model.eval()
        with torch.no_grad():
            metrics = self.phase.validate()
        self.model.train()
        at, value = self.at, metrics[self.phase.selects]
        if value > at.best:
            at.best, at.best_step, at.validations_without_gain = value, at.step, 0
            self.best_weights = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        else:
            at.validations_without_gain += 1
            at.stopped = at.validations_without_gain >= self.phase.patience
        return metrics

    def save_when_due(self) -> None:
        if self.checkpoints is None:
            return
        stop = self.checkpoints.stop()
        if stop or time.monotonic() - self.saved_at >= self.checkpoints.every_seconds:
            self.save()
        if stop:
            raise Stopped

    def save(self) -> None:
        """Rank 0 writes; all ranks hold the same state. Raises TrainingError instead of keeping broken weights."""
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.model.parameters()):
            raise TrainingError(  # a gradient can overflow where its loss did not
                f"{self.phase.name}: weights are not finite after step {self.at.step}; the last checkpoint is from "
                "before it. Lower the learning rate"
            )
        self.saved_at = time.monotonic()
        if self.checkpoints is None or rank() > 0:
            return
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in (self.best_weights or {}).items()}
        tensors |= {f"phase.{name}": value for name, value in self.phase.state().items()}
        tensors |= optimizer_tensors(self.engine.optimizer)
        self.checkpoints.save(tensors, self.at.to_dict())

    def resume(self) -> None:
        found = self.checkpoints.load() if self.checkpoints else None
        if found is None:
            return
        tensors, numbers = found
        self.at = Progress.from_dict(numbers)
        self.model.load_state_dict(_under(tensors, "model."))
        self.best_weights = _under(tensors, "best.") or None
        self.phase.load_state(_under(tensors, "phase."))
        load_optimizer(self.engine.optimizer, tensors)

    def restore_best(self) -> dict[str, float]:
        """Put the best weights back into the model, if there are any. Returns the row of the epoch they are from."""
        history = self.at.history
        if self.best_weights is None:
            return history[-1] if history else {}
        self.model.load_state_dict(self.best_weights)
        return next(row for row in history if row["step"] == self.at.best_step)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
