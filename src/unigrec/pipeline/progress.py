"""Progress of a training: a line per epoch, and after each step what a live bar shows.

A training does not know where its progress is shown. That is a *screen*: plain lines (here), messages for a parent
process (here), or bars on a terminal (`unigrec.commands.bars`, the only one that imports rich).
"""

from __future__ import annotations

import json
import math
import sys
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from unigrec.core.evaluation.protocol import SELECTED

if TYPE_CHECKING:
    from unigrec.core.training.loop import Moment

RECORD = "\x1e"  # begins a message among lines of text, as in RFC 7464
MESSAGE_SECONDS = 0.2  # minimum between two messages about steps


class Position(NamedTuple):
    """What a live bar shows: name of the training, its numbers, best validation and seconds left, as far as known."""

    name: str
    epoch: int
    epochs: int
    batch: int
    batches: int
    best: float | None
    left: float | None


class Screen(Protocol):
    """Shows a training that runs."""

    def line(self, text: str) -> None:
        """Show the figures of an epoch."""

    def at(self, position: Position) -> None:
        """Show how far the training is, after one of its steps."""


class Lines:
    """Lines on stderr, for a log."""

    def line(self, text: str) -> None:
        """Print the figures of an epoch."""
        print(text, file=sys.stderr, flush=True)

    def at(self, position: Position) -> None:
        """Show nothing: a log has no room for steps."""


class Messages:
    """Messages on stderr for a parent process, which shows them; `read_message` reads them back."""

    def __init__(self) -> None:
        self.sent = float("-inf")

    def line(self, text: str) -> None:
        """Send the figures of an epoch."""
        self._send(text)

    def at(self, position: Position) -> None:
        """Send a position, unless another one was sent a moment ago."""
        now = time.monotonic()
        if now - self.sent >= MESSAGE_SECONDS:
            self.sent = now
            self._send(position)

    def _send(self, content: str | Position) -> None:
        sys.stderr.write(f"{RECORD}{json.dumps(content)}\n")
        sys.stderr.flush()


def read_message(line: str) -> str | Position | None:
    """What `Messages` sent: the figures of an epoch, or a position. None: the line is no message."""
    if not line.startswith(RECORD):
        return None
    try:
        content = json.loads(line[len(RECORD) :])
        return content if isinstance(content, str) else Position(*content)
    except (ValueError, TypeError):
        return None


class TrainingProgress:
    """Follows one training. `log` and `tick` are those of its `Run`.

    Args:
        name: of the phase. epochs: maximum number.
        screen: where it is shown.
        parts: number of trainings that follow each other under this name.
        verbose: every figure of every epoch. Otherwise a line holds loss, validation NDCG@10 (or the share of items
            that share all codes), the best so far, and the time left if training does not stop early. Epochs without
            validation then have at most one line per `every` seconds.
    """

    def __init__(
        self,
        name: str,
        epochs: int,
        screen: Screen,
        parts: int = 1,
        verbose: bool = False,
        every: float = 5.0,
    ):
        self.name, self.epochs, self.parts, self.screen = name, epochs, parts, screen
        self.verbose, self.every = verbose, every
        self.printed = time.monotonic()
        self.best: float | None = None
        self.seen: Moment | None = None  # the last one
        self.began = (0.0, 0.0)  # finished share and clock when the training was first seen: it may have resumed

    def tick(self, moment: Moment) -> None:
        """Note how far the training is, and show it."""
        if self.seen is None or moment.part != self.seen.part:
            self.began = (moment.done, time.monotonic())
        self.seen = moment
        self.best = moment.best if math.isfinite(moment.best) else None
        epoch, batch = (moment.epoch, moment.epochs), (moment.batch, moment.batches)
        self.screen.at(Position(self._label(), *epoch, *batch, best=self.best, left=self._left()))

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Show an epoch's figures: every validation and the last epoch; others now and then, unless verbose."""
        now, epoch = time.monotonic(), int(metrics["epoch"])
        validation = metrics.get(SELECTED)
        if validation is not None:
            self.best = validation if self.best is None else max(self.best, validation)
        due = validation is not None or epoch == self.epochs or now - self.printed >= self.every
        if due or self.verbose:
            self.printed = now
            figures = _every_figure(metrics) if self.verbose else self._figures(metrics)
            self.screen.line(
                f"{self._label()}: epoch {epoch}/{self.epochs}  {'  '.join([*figures, *self._time_left()])}"
            )

    def _label(self) -> str:
        return self.name if self.parts == 1 or self.seen is None else f"{self.name} {self.seen.part + 1}/{self.parts}"

    def _figures(self, metrics: dict[str, float]) -> list[str]:
        figures = [f"loss {metrics['loss']:.4f}"] if "loss" in metrics else []
        if SELECTED in metrics:
            figures.append(f"NDCG@10 {metrics[SELECTED]:.4f}")
        if self.best is not None:
            figures.append(f"best {self.best:.4f}")
        elif "collision_rate" in metrics:
            figures.append(f"share all codes {metrics['collision_rate']:.1%}")
        return figures

    def _time_left(self) -> list[str]:
        left = self._left()
        return [] if left is None else [f"left {duration(left)}"]

    def _left(self) -> float | None:
        """Seconds left if training does not stop early. None: it is too early to tell."""
        if self.seen is None or self.seen.done <= self.began[0]:
            return None
        share, clock = self.began
        return (time.monotonic() - clock) / (self.seen.done - share) * (1.0 - self.seen.done)


def duration(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes: `0:07`, `12:40`, `3 h 05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _every_figure(metrics: dict[str, float]) -> list[str]:
    return [f"{name} {value:.4g}" for name, value in metrics.items() if name not in ("epoch", "step")]
