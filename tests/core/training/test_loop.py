"""The training loop: which weights it keeps, when it stops, and that an interrupted run ends with the same bits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from unigrec.base.errors import EXIT_BAD_INPUT, TrainingError
from unigrec.core.training import loop
from unigrec.core.training.checkpoint import CheckpointFolder
from unigrec.core.training.engine import TorchEngine
from unigrec.core.training.loop import Moment, Phase, Run, train

BATCHES = 4
CPU = torch.device("cpu")


class Interrupted(Exception):
    pass


class Toy:
    """A small network with dropout, and a phase that trains it on batches that depend on the epoch.

    Args:
        scores: the metric of each validation; None for no validation.
        interrupt_at: the step before which the run is interrupted. nan_at: the step whose loss is not a number.
    """

    def __init__(self, epochs=3, scores=None, interrupt_at=None, nan_at=None, seed=0, **options):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.engine = TorchEngine(self.model, torch.optim.AdamW(self.model.parameters(), lr=1e-2))
        self.scores, self.validated, self.steps, self.seen = scores, [], [], []
        self.interrupt_at, self.nan_at = interrupt_at, nan_at
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.ticks: list[Moment] = []
        self.phase = Phase(
            name="toy",
            epochs=epochs,
            batches=lambda epoch: [1 + epoch * BATCHES + batch for batch in range(BATCHES)],
            losses=self.losses,
            validate=self.validate if scores is not None else None,
            start_epoch=self.start_epoch,
            state=lambda: {"target": torch.tensor(self.target, dtype=torch.float64)},
            load_state=self.load_state,
            **options,
        )
        self.seed, self.target = seed, 0.0

    def load_state(self, tensors):
        self.target = float(tensors["target"])

    def start_epoch(self, epoch):
        self.target = float(epoch)
        return {"opening": float(epoch)}

    def losses(self, batch, step):
        if step == self.interrupt_at:
            raise Interrupted
        self.steps.append((batch, step))
        rows = torch.full((16, 4), batch / 10)
        loss = (self.model(rows) - self.target).square().mean()
        self.seen.append(float(loss.detach()))
        return {"loss": loss * (math.nan if step == self.nan_at else 1.0), "other_loss": loss.detach()}

    def validate(self):
        assert not self.model.training
        self.validated.append(self.weights())
        return {"validation_ndcg_at_10": self.scores[len(self.validated) - 1]}

    def weights(self):
        return torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])

    def run(self, checkpoints=None):
        return train(self.phase, self.engine, Run(self.seed, CPU, self.log, checkpoints, tick=self.ticks.append))

    def log(self, step, metrics):
        self.logged.append((step, metrics))


def checkpoints(folder, key="key", every_seconds=0.0):
    return CheckpointFolder(folder, key, every_seconds)


def test_an_epoch_is_a_row_of_mean_losses_and_opening_figures():
    toy = Toy(epochs=2)
    history = toy.run().history
    assert [(row["epoch"], row["step"], row["opening"]) for row in history] == [(1, 4, 0.0), (2, 8, 1.0)]
    assert history[0]["loss"] == pytest.approx(history[0]["other_loss"])
    assert toy.logged == [(4, history[0]), (8, history[1])]
    assert toy.steps == [(batch, batch - 1) for batch in range(1, 9)]


def test_each_step_is_a_tick_with_the_best_validation_before_it():
    toy = Toy(epochs=3, scores=[0.2, 0.1, 0.3])
    toy.run()
    assert [(at.epoch, at.batch) for at in toy.ticks] == [(e, b) for e in (1, 2, 3) for b in range(1, BATCHES + 1)]
    assert [at.best for at in toy.ticks[::BATCHES]] == [-math.inf, 0.2, 0.2]
    assert [at.done for at in toy.ticks] == pytest.approx([step / 12 for step in range(1, 13)])


def test_a_part_of_a_training_says_its_number_in_each_tick(tmp_path):
    ticks: list[Moment] = []
    run = Run(0, CPU, lambda step, metrics: None, tick=ticks.append)
    for number in (0, 1):
        toy = Toy(epochs=1)
        train(toy.phase, toy.engine, run.part(number))
    assert [at.part for at in ticks] == [0] * BATCHES + [1] * BATCHES


def test_closing_figures_are_of_the_weights_after_the_epochs_last_step():
    toy = Toy(epochs=2, scores=[0.1, 0.2], end_epoch=lambda epoch: {"closing": float(toy.weights().sum())})
    history = toy.run().history
    assert [row["closing"] for row in history] == [float(weights.sum()) for weights in toy.validated]
    assert toy.logged[-1][1]["closing"] == history[-1]["closing"]


def test_training_stops_early_and_the_best_weights_come_back():
    toy = Toy(epochs=10, scores=[0.1, 0.3, 0.2, 0.3, 0.9], patience=2)
    history = toy.run().history
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert torch.equal(toy.weights(), toy.validated[1])


def test_the_row_of_the_kept_weights_is_that_of_the_first_best_validation():
    trained = Toy(epochs=6, scores=[0.1, 0.3, 0.2, 0.3, 0.1], validate_every=1, patience=2).run()
    assert trained.kept == trained.history[1]
    assert (trained.kept["epoch"], trained.kept["opening"], trained.kept["validation_ndcg_at_10"]) == (2, 1.0, 0.3)


def test_without_a_validation_that_is_a_number_the_last_row_is_kept():
    for scores in (None, [math.nan] * 3):
        trained = Toy(epochs=3, scores=scores).run()
        assert trained.kept["epoch"] == 3


def test_without_validation_the_last_weights_are_kept():
    toy, start = Toy(epochs=1), Toy().weights()
    toy.run()
    assert not torch.equal(toy.weights(), start)


def test_validation_is_due_every_few_epochs_and_after_the_last():
    history = Toy(epochs=5, scores=[0.1] * 3, validate_every=2).run().history
    assert [row["epoch"] for row in history if "validation_ndcg_at_10" in row] == [2, 4, 5]


def test_the_initial_weights_are_kept_when_no_later_ones_are_better():
    toy, start = Toy(epochs=2, scores=[0.5, 0.4, 0.3], validate_first=True), Toy().weights()
    trained = toy.run()
    assert trained.history[0] == trained.kept == {"epoch": 0, "step": 0, "validation_ndcg_at_10": 0.5}
    assert torch.equal(toy.weights(), start)


def test_without_an_epoch_the_weights_do_not_change():
    toy, start = Toy(epochs=0, scores=[], validate_first=True), Toy().weights()
    assert toy.run() == (toy.model, [], {})
    assert torch.equal(toy.weights(), start)


def test_the_learning_rate_is_the_groups_own_times_the_factor():
    seen = []
    toy = Toy(epochs=2, learning_rate=lambda done: seen.append(done) or 0.5)
    toy.run()
    assert seen == [step / (2 * BATCHES) for step in range(2 * BATCHES)]
    assert toy.engine.optimizer.param_groups[0]["lr"] == 0.005


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_harmed(tmp_path):
    toy, sound = Toy(nan_at=6), Toy(interrupt_at=6)
    with pytest.raises(TrainingError) as raised:
        toy.run(checkpoints(tmp_path))
    with pytest.raises(Interrupted):
        sound.run()
    assert raised.value.exit_code == EXIT_BAD_INPUT
    for part in ("toy: the loss is not finite", "epoch 2, step 6", "loss nan", "other_loss 1.", "learning rate"):
        assert part in str(raised.value)
    assert torch.equal(toy.weights(), sound.weights())
    resumed = Toy()  # the checkpoint is from before the bad step
    resumed.run(checkpoints(tmp_path))
    assert resumed.steps[0] == (7, 6)


def test_broken_weights_are_never_saved(tmp_path):
    """A gradient can overflow where its loss is finite: the loss of the next step would come too late."""
    toy = Toy()
    toy.model[0].weight.register_hook(lambda gradient: gradient * math.inf if len(toy.steps) == 6 else gradient)
    with pytest.raises(TrainingError, match="toy: weights are not finite after step 6"):
        toy.run(checkpoints(tmp_path))
    tensors, numbers = checkpoints(tmp_path).load()
    assert numbers["step"] == 5
    assert all(bool(value.isfinite().all()) for value in tensors.values())


@pytest.mark.parametrize("interrupt_at", [1, 4, 5, 7, 11])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, interrupt_at):
    scores = [0.1, 0.3, 0.2]
    whole = Toy(scores=scores)
    expected = whole.run(checkpoints(tmp_path / "whole"))
    cut = Toy(scores=scores, interrupt_at=interrupt_at)
    with pytest.raises(Interrupted):
        cut.run(checkpoints(tmp_path / "cut"))
    torch.manual_seed(99)  # the process may have used its generator in the meantime
    resumed = Toy(scores=scores[len(cut.validated) :])
    found = resumed.run(checkpoints(tmp_path / "cut"))
    assert (found.history, found.kept) == (expected.history, expected.kept)
    assert resumed.steps[0][1] == interrupt_at
    assert torch.equal(resumed.weights(), whole.weights())


def test_a_finished_run_is_not_run_again(tmp_path):
    first = Toy(scores=[0.1, 0.3, 0.2])
    first.run(checkpoints(tmp_path))
    again = Toy(scores=[])
    again.run(checkpoints(tmp_path))
    assert again.steps == []
    assert torch.equal(again.weights(), first.weights())


def test_dropout_differs_from_step_to_step_and_from_seed_to_seed():
    def values(seed: int) -> list[float]:
        """Losses of the same weights on the same batch."""
        toy = Toy(epochs=1, learning_rate=lambda done: 0.0, seed=seed)
        toy.phase.batches = lambda epoch: [1, 1]
        toy.run()
        return toy.seen

    assert values(1) == values(1)
    assert len({*values(1), *values(2)}) == 4


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_a_damaged_checkpoint_counts_as_none(tmp_path, keep, capsys):
    with pytest.raises(Interrupted):
        Toy(interrupt_at=5).run(checkpoints(tmp_path))
    path = checkpoints(tmp_path).path
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    toy, whole = Toy(), Toy()
    toy.run(checkpoints(tmp_path))
    whole.run()
    assert "checkpoint ignored, training starts again" in capsys.readouterr().err
    assert toy.steps[0] == (1, 0)
    assert torch.equal(toy.weights(), whole.weights())


def test_a_checkpoint_of_other_inputs_is_not_loaded_and_is_removed_by_the_first_save(tmp_path):
    with pytest.raises(Interrupted):
        Toy(interrupt_at=5).run(checkpoints(tmp_path, "old"))
    (tmp_path / ".new.safetensors.99.tmp").write_text("what a kill in the middle of a save leaves")
    toy = Toy()
    toy.run(checkpoints(tmp_path, "new"))
    assert toy.steps[0] == (1, 0)
    assert list(tmp_path.iterdir()) == [checkpoints(tmp_path, "new").path]


@pytest.mark.parametrize(("took", "saves"), [(0.0, 13), (10.0, 2)])
def test_a_save_that_takes_long_is_made_less_often(took, saves, tmp_path, monkeypatch):
    now, saved, save = [0.0], [], CheckpointFolder.save

    def slow(folder, tensors, numbers):
        now[0] += took
        saved.append(numbers["step"])
        save(folder, tensors, numbers)

    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(CheckpointFolder, "save", slow)
    toy = Toy()
    compute = toy.phase.losses

    def losses(batch, step):
        now[0] += 1.0  # a step
        return compute(batch, step)

    toy.phase.losses = losses
    toy.run(checkpoints(tmp_path, every_seconds=1.0))
    assert len(saved) == saves  # in 12 steps, and at the end
    assert saved[-1] == 12


def test_checkpoints_are_at_least_every_seconds_apart(tmp_path):
    with pytest.raises(Interrupted):
        Toy(interrupt_at=9).run(checkpoints(tmp_path, every_seconds=60.0))
    assert checkpoints(tmp_path).load() is None
