"""Progress of a training: what its lines hold, how long they are, and that messages come back as they were sent."""

from __future__ import annotations

import math
import time

import pytest

from unigrec.core.training.loop import Moment
from unigrec.pipeline.progress import Lines, Messages, Position, TrainingProgress, duration, read_message

JOINT = {
    "epoch": 2,
    "step": 20,
    "loss": 12.345678,
    "recommendation_loss": 1.0,
    "collision_rate": 0.25,
    "validation_recall_at_10": 0.3,
    "validation_ndcg_at_10": 0.123456,
}


class Seen:
    """A screen that keeps what it was shown."""

    def __init__(self):
        self.lines: list[str] = []
        self.positions: list[Position] = []

    def line(self, text):
        self.lines.append(text)

    def at(self, position):
        self.positions.append(position)


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    return Clock


def moment(epoch, batch, best=-math.inf, part=0, epochs=4, batches=10) -> Moment:
    return Moment(part, epoch, epochs, batch, batches, best)


def test_a_line_has_the_four_figures_that_matter_and_is_short(clock):
    seen = Seen()
    progress = TrainingProgress("joint", 4, seen)
    progress.tick(moment(1, 1))
    clock.now += 19.0
    progress.tick(moment(2, 10, best=0.2))  # 19 of 40 steps in 19 seconds
    progress.log(20, JOINT)
    assert seen.lines == ["joint: epoch 2/4  loss 12.3457  NDCG@10 0.1235  best 0.2000  left 0:20"]
    assert len(seen.lines[0]) < 120


def test_the_best_of_a_line_is_that_of_its_own_validation_if_it_is_higher():
    seen = Seen()
    progress = TrainingProgress("joint", 4, seen)
    progress.tick(moment(2, 10, best=0.1))
    progress.log(20, JOINT)
    assert "NDCG@10 0.1235  best 0.1235" in seen.lines[0]


def test_a_training_without_validation_shows_the_share_of_items_that_share_all_codes():
    seen = Seen()
    TrainingProgress("tokenizer", 2, seen).log(20, {"epoch": 2, "step": 20, "loss": -0.5, "collision_rate": 0.25})
    assert seen.lines == ["tokenizer: epoch 2/2  loss -0.5000  share all codes 25.0%"]


def test_epochs_without_validation_have_a_line_now_and_then_and_the_last_one_always(clock):
    seen = Seen()
    progress = TrainingProgress("toy", 6, seen, every=5.0)
    for epoch in range(1, 7):
        clock.now += 2.0
        progress.log(epoch, {"epoch": epoch, "step": epoch, "loss": 1.0})
    assert [line.split()[2] for line in seen.lines] == ["3/6", "6/6"]


def test_verbose_shows_every_figure_of_every_epoch(clock):
    seen = Seen()
    progress = TrainingProgress("joint", 4, seen, verbose=True)
    progress.log(10, {"epoch": 1, "step": 10, "loss": 1.0, "temperature": 0.001})
    progress.log(20, JOINT)
    assert seen.lines[0] == "joint: epoch 1/4  loss 1  temperature 0.001"
    assert "recommendation_loss 1  collision_rate 0.25  validation_recall_at_10 0.3" in seen.lines[1]


def test_time_left_counts_from_where_a_training_resumed(clock):
    seen = Seen()
    progress = TrainingProgress("joint", 4, seen)
    progress.tick(moment(3, 1))
    clock.now += 9.0
    progress.tick(moment(3, 10))
    assert [at.left for at in seen.positions] == [None, pytest.approx(10.0)]


def test_each_of_several_trainings_has_its_number_its_time_and_its_best(clock):
    seen = Seen()
    progress = TrainingProgress("teacher", 4, seen, parts=3)
    progress.tick(moment(4, 10, best=0.3))
    clock.now += 100.0
    progress.tick(moment(1, 1, part=1))
    progress.log(1, {"epoch": 1, "step": 1, "loss": 1.0})
    assert [(at.name, at.best, at.left) for at in seen.positions] == [
        ("teacher 1/3", 0.3, None),
        ("teacher 2/3", None, None),
    ]
    assert seen.lines == ["teacher 2/3: epoch 1/4  loss 1.0000"]


def test_messages_come_back_as_they_were_sent_and_steps_do_not_flood_a_pipe(clock, capsys):
    messages, position = Messages(), Position("joint", 1, 4, 3, 10, best=None, left=2.5)
    messages.at(position)
    messages.at(position)  # at the same moment
    messages.line("joint: epoch 1/4\nin two lines")
    clock.now += 1.0
    messages.at(position)
    lines = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert [read_message(line) for line in lines] == [position, "joint: epoch 1/4\nin two lines", position]


@pytest.mark.parametrize("line", ["plain text", "\x1enot JSON", "\x1e[1, 2]", "\x1e{}", "\x1e3", ""])
def test_other_lines_are_no_messages(line):
    assert read_message(line) is None


def test_lines_go_to_stderr(capsys):
    Lines().at(Position("joint", 1, 4, 3, 10, best=None, left=None))
    Lines().line("a line")
    assert capsys.readouterr() == ("", "a line\n")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (760, "12:40"), (3600, "1 h 00 min"), (11100, "3 h 05 min")]
)
def test_a_duration_reads_as_a_clock(seconds, text):
    assert duration(seconds) == text
