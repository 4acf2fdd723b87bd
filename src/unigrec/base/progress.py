"""Progress of training, as lines on stderr."""

from __future__ import annotations

import sys
import time


class TrainingProgress:
    """Prints the figures of a training phase, one line per epoch.

    Args:
        name: name of the phase.
        epochs: maximum number of epochs.
        every: minimum seconds between two lines.
    """

    def __init__(self, name: str, epochs: int, every: float = 5.0):
        self.name, self.epochs, self.every = name, epochs, every
        self.started = self.printed = time.monotonic()

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        """Print an epoch's figures: every validation and the last epoch; others at most once per `every` seconds."""
        now, epoch = time.monotonic(), int(metrics["epoch"])
        validated = any(name.startswith("validation_") for name in metrics)
        if not (validated or epoch == self.epochs or now - self.printed >= self.every):
            return
        self.printed = now
        shown = {name: value for name, value in metrics.items() if name not in ("epoch", "step")}
        figures = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        print(
            f"{self.name}: epoch {epoch}/{self.epochs}  {now - self.started:.0f} s  {figures}",
            file=sys.stderr,
            flush=True,
        )
