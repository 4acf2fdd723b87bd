"""The training loop of all phases: each phase supplies its batches, its losses and its validation.

A run is a function of its seed: batches depend on (seed, epoch), dropout on (seed, step, rank).
A run that is killed and started again resumes from its last checkpoint. It ends with the same weights (on a CPU, the
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
from unigrec.core.distributed import mean_over_ranks, of_first_rank, rank, values_of_ranks
from unigrec.core.evaluation.protocol import SELECTED
from unigrec.core.training.checkpoint import CheckpointFolder, Stopped, load_optimizer, optimizer_tensors
from unigrec.core.training.engine import Engine

SAVING_SHARE = 0.05  # of a training's time that checkpoints may take, about

Log = Callable[[int, dict[str, float]], None]  # step, metrics


class Moment(NamedTuple):
    """How far a training is, after one of its steps.

    Attributes:
        part: number of this training, if it is one of several. epoch, batch: this one's number, from 1.
        best: highest validation so far; -inf if there was none.
    """

    part: int
    epoch: int
    epochs: int
    batch: int
    batches: int
    best: float

    @property
    def done(self) -> float:
        """Finished share of the run, in (0, 1]. A run that stops early ends before it is 1."""
        return (self.epoch - 1 + self.batch / self.batches) / self.epochs


Tick = Callable[[Moment], None]


def unseen(moment: Moment) -> None:
    """The tick of a run that nobody watches."""


class Run(NamedTuple):
    """How a training runs: everything that is neither its data nor its params.

    Attributes:
        seed: of weights, batches and dropout.
        device: where the network and its batches lie.
        log: called after each epoch, on rank 0.
        checkpoints: where the training saves its state and resumes from it. None: it saves nothing.
        tick: called after each step, on rank 0; it costs time in every step.
        number: of this training, if it is one of several.
    """

    seed: int
    device: torch.device
    log: Log
    checkpoints: CheckpointFolder | None = None
    tick: Tick = unseen
    number: int = 0

    def part(self, number: int) -> Run:
        """The run of one of several trainings, with a seed and checkpoints of its own. Part 0 has those of the run."""
        if number == 0:
            return self
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0]) % 2**31
        checkpoints = None if self.checkpoints is None else self.checkpoints.part(number)
        return self._replace(seed=seed, checkpoints=checkpoints, number=number)


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
        batches: epoch -> the epoch's batches; the same epoch always gives the same batches.
        losses: batch, step -> named scalars; the scalar named `loss` is minimised.
        learning_rate: finished share of the run, in [0, 1) -> factor on the learning rate of each group.
        validate: -> metrics; training keeps the weights with the highest `SELECTED`. None: the last weights are kept.
        start_epoch: called before an epoch's first step; returns figures to log.
        end_epoch: called after an epoch's last step and before its validation; returns figures to log.
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
    validate_first: bool = False  # the initial weights are a candidate too
    validate_every: int = 1
    patience: int = 1_000_000


@dataclass
class Progress:
    """How far a run has come. A checkpoint holds all of it."""

    epoch: int = 0
    batch: int = 0  # next batch of the epoch
    step: int = 0
    best: float = float("-inf")
    best_step: int = -1
    validations_without_gain: int = 0
    stopped: bool = False
    opening: dict[str, float] = field(default_factory=dict)  # figures that `start_epoch` returned
    sums: dict[str, float] = field(default_factory=dict)  # of each loss over the epoch's batches so far
    history: list[dict[str, float]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return vars(self) | {"best": None if self.best == float("-inf") else self.best}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progress:
        return cls(**(values | {"best": float("-inf") if values["best"] is None else values["best"]}))


def train(phase: Phase, engine: Engine, run: Run) -> Trained:
    """Run a phase to its end and leave the chosen weights in the engine's model.

    Raises:
        TrainingError: the loss is not finite on some rank, or a weight is not. The message names phase and step. In the
            first case the weights are those of the step before.
        Stopped: the checkpoints' `stop` returned True. The state is saved.
    """
    training = _Training(phase, engine, run)
    training.resume()
    while training.progress.epoch < phase.epochs and not training.progress.stopped:
        training.epoch()
    training.save()
    kept = training.restore_best()
    return Trained(training.model, training.progress.history, kept)


class _Training:
    """One call of `train`: model and optimizer in the engine, progress, and the best weights so far."""

    def __init__(self, phase: Phase, engine: Engine, run: Run):
        self.phase, self.engine, self.run, self.checkpoints = phase, engine, run, run.checkpoints
        self.model: nn.Module = engine.model
        self.progress = Progress()
        self.best_weights: dict[str, Tensor] | None = None
        self.base_rates = [group["lr"] for group in engine.optimizer.param_groups]
        self.saved_at, self.save_took = time.monotonic(), 0.0

    def epoch(self) -> None:
        """Train from the next batch to the end of the epoch, and validate if it is due."""
        progress, phase = self.progress, self.phase
        if phase.validate_first and progress.step == 0:
            progress.history.append({"epoch": 0, "step": 0} | self.validate())
        # An epoch that resumes at a later batch takes its opening figures from the checkpoint.
        if progress.batch == 0:
            progress.opening = phase.start_epoch(progress.epoch) if phase.start_epoch else {}
        batches = phase.batches(progress.epoch)
        self.model.train()
        while progress.batch < len(batches):
            done = (progress.epoch + progress.batch / len(batches)) / phase.epochs
            self.step(batches[progress.batch], done)
            if rank() == 0:
                epoch, batch = progress.epoch + 1, progress.batch
                self.run.tick(Moment(self.run.number, epoch, phase.epochs, batch, len(batches), best=progress.best))
            self.save_when_due()
        # The epoch's row: mean losses, the phase's figures, validation metrics.
        row: dict[str, float] = {"epoch": progress.epoch + 1, "step": progress.step}
        row |= {name: total / len(batches) for name, total in progress.sums.items()} | progress.opening
        if phase.end_epoch:
            row |= phase.end_epoch(progress.epoch)
        if phase.validate and ((progress.epoch + 1) % phase.validate_every == 0 or progress.epoch + 1 == phase.epochs):
            row |= self.validate()
        progress.history.append(row)
        progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
        if rank() == 0:
            self.run.log(progress.step, row)
        self.save_when_due()

    def step(self, batch: Any, done: float) -> None:
        progress, factor = self.progress, self.phase.learning_rate(done)
        for group, rate in zip(self.engine.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        # Seed dropout per step and rank: ranks differ, and a checkpoint needs no state of a generator.
        torch.manual_seed(int(np.random.SeedSequence([self.run.seed, progress.step, rank()]).generate_state(1)[0]))
        losses = self.phase.losses(batch, progress.step)
        means = mean_over_ranks(torch.stack([value.detach().float() for value in losses.values()])).tolist()
        values = dict(zip(losses, means, strict=True))
        if not math.isfinite(values["loss"]):
            figures = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            raise TrainingError(
                f"{self.phase.name}: the loss is not finite at epoch {progress.epoch + 1}, step {progress.step}: "
                f"{figures}; the last checkpoint is from before it. Lower the learning rate, or look for extreme item "
                "embeddings"
            )
        self.engine.step(losses["loss"])
        for name, value in values.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value
        progress.batch += 1
        progress.step += 1

    def validate(self) -> dict[str, float]:
        assert self.phase.validate is not None
        self.model.eval()
        with torch.no_grad():
            # Ranks on different processors may round differently, and all must take the same decision.
            metrics = of_first_rank(self.phase.validate(), self.run.device)
        self.model.train()
        progress, value = self.progress, metrics[SELECTED]
        # Copy the best weights, as the optimizer changes the model in place. A tie keeps the earlier weights.
        if value > progress.best:
            progress.best, progress.best_step, progress.validations_without_gain = value, progress.step, 0
            self.best_weights = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        else:
            progress.validations_without_gain += 1
            progress.stopped = progress.validations_without_gain >= self.phase.patience
        return metrics

    def save_when_due(self) -> None:
        if self.checkpoints is None:
            return
        stop, every = self.checkpoints.stop(), self.checkpoints.every_seconds
        if every:  # a model of gigabytes is saved less often
            every = max(every, self.save_took / SAVING_SHARE)
        if stop or time.monotonic() - self.saved_at >= every:
            began = time.monotonic()
            self.save()
            self.saved_at = time.monotonic()
            self.save_took = self.saved_at - began
        if stop:
            raise Stopped

    def save(self) -> None:
        """Write a checkpoint, on rank 0: all ranks hold the same state.

        Raises TrainingError if a weight is not finite: the last checkpoint stays as it is.
        """
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.model.parameters()):
            raise TrainingError(  # a gradient can overflow although its loss is finite
                f"{self.phase.name}: weights are not finite after step {self.progress.step}; the last checkpoint is "
                "from before it. Lower the learning rate"
            )
        if self.checkpoints is None or rank() > 0:
            return
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in (self.best_weights or {}).items()}
        tensors |= {f"phase.{name}": value for name, value in self.phase.state().items()}
        tensors |= optimizer_tensors(self.engine.optimizer)
        self.checkpoints.save(tensors, self.progress.to_dict())

    def resume(self) -> None:
        """Load the last checkpoint, if there is one: progress, weights, best weights, the phase's state, optimizer.

        Raises TrainingError if ranks find different checkpoints.
        """
        if self.checkpoints is None:
            return
        found = self.checkpoints.load()
        steps = values_of_ranks(-1 if found is None else found[1]["step"], self.run.device)
        if len(set(steps)) > 1:
            where = ", ".join(f"rank {rank} {'none' if step < 0 else step}" for rank, step in enumerate(steps))
            raise TrainingError(
                f"{self.phase.name}: the ranks found checkpoints of different steps in {self.checkpoints.folder} "
                f"({where}): all hosts must see the same folder. Share it, or delete it on every host"
            )
        if found is None:
            return
        tensors, numbers = found
        self.progress = Progress.from_dict(numbers)
        self.model.load_state_dict(_under(tensors, "model."))
        self.best_weights = _under(tensors, "best.") or None
        self.phase.load_state(_under(tensors, "phase."))
        load_optimizer(self.engine.optimizer, tensors)

    def restore_best(self) -> dict[str, float]:
        """Put the best weights back into the model, if there are any. Returns the row of the epoch they are from."""
        history = self.progress.history
        if self.best_weights is None:
            return history[-1] if history else {}
        self.model.load_state_dict(self.best_weights)
        return next(row for row in history if row["step"] == self.progress.best_step)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
