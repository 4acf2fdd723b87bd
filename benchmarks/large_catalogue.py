"""`python -m benchmarks.large_catalogue`: what the trainings and the counts over a catalogue cost as it grows.

Each row runs in a process of its own, on generated data of this size, with one thread.

Shapes: N items.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

from benchmarks.speed.harness import in_child, say
from benchmarks.speed.shapes import generated_embeddings, generated_sequences, params_of
from unigrec.base.markdown import markdown_table

SIZES = (10_000, 100_000, 1_000_000)
STEPS = 8  # of a training
WIDTH = 128  # of item embeddings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS), help="default: all")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="items")
    options = parser.parse_args()
    for part in options.parts:
        rows = [row for items in options.sizes for row in PARTS[part](items)]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        print(markdown_table(columns, [[_shown(row.get(column, "")) for column in columns] for row in rows]), "\n")


def _shown(value: Any) -> str:
    return f"{value:,.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def measured(part: Callable[..., dict[str, Any]], items: int, **arguments: Any) -> dict[str, Any]:
    """A row of the table: what a part returns, and the peak memory of its process."""
    found, usage = in_child(part, items=items, **arguments)
    row = {"items": items, **arguments, **found, "peak GB": usage.peak / 1e9}
    say(f"large_catalogue: {row}")
    return row


def teacher(items: int) -> list[dict[str, Any]]:
    return [measured(teacher_steps, items, loss=loss) for loss in ("full", "sampled")]


def teacher_steps(items: int, loss: str) -> dict[str, Any]:
    """Seconds of a step and of the ranking of 64 validation users, by the whole training with content."""
    import torch

    from unigrec.base.process import training_device
    from unigrec.core.training.loop import Run
    from unigrec.core.training.teacher import train_teacher

    device = training_device()
    params = params_of("small").teacher
    update = {"members": 1, "epochs": 1, "validate_every": 1, "validation_users": 64, "loss": loss}
    params = params.model_copy(update=update)
    sequences = generated_sequences(STEPS * params.batch_size, items)
    ticks = [time.process_time()]
    run = Run(0, device, lambda step, row: None, tick=lambda moment: ticks.append(time.process_time()))
    torch.manual_seed(0)
    trained = train_teacher(sequences, generated_embeddings(items, WIDTH), params, run)
    ended = time.process_time()
    steps = [after - before for before, after in pairwise(ticks[2:])]
    places = int((sequences.train_ends - sequences.offsets[:-1] - 1).sum())
    return {
        "places per step": places // STEPS,
        "step, CPU ms": 1e3 * median(steps),
        "validation and end, CPU s": ended - ticks[-1],
        "loss at the end": trained.history[0]["loss"],
    }


PARTS: dict[str, Callable[[int], list[dict[str, Any]]]] = {"teacher": teacher}


if __name__ == "__main__":
    from benchmarks import large_catalogue  # by its name, so that a process of its own finds its functions

    large_catalogue.main()
