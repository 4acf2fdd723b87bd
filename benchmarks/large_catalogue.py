"""`python -m benchmarks.large_catalogue`: what the trainings and the counts over a catalogue cost as it grows.

Each row runs in a process of its own, on generated data of this size, with one thread.

Shapes: N items.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.speed.harness import in_child, say
from benchmarks.speed.shapes import generated_embeddings, generated_sequences, params_of
from unigrec.base.markdown import markdown_table

SIZES = (10_000, 100_000, 1_000_000)
SAMPLED = (("sampled", 1024), ("sampled", 8192))  # losses of a teacher, and their negatives
STEPS, READ = 8, 2000  # of a training; rows of the item table that a step reads
LEVELS, DISTANCES = 3, 400_000_000  # of identifiers; distances of a hit rate, at most
RANKED, RANKED_AMONG = 128, 200_000  # users whose test items are ranked; users of the log
WIDTH, NARROW = 128, 32  # of item embeddings; of those in measures of memory that do not depend on it


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
    rows = [("full", 1)] if items <= 1_000_000 else []
    return [measured(teacher_steps, items, loss=loss, negatives=n) for loss, n in (*rows, *SAMPLED)]


def teacher_steps(items: int, loss: str, negatives: int) -> dict[str, Any]:
    """Seconds of a step and of the ranking of 64 validation users, by the whole training with content."""
    import torch

    from unigrec.base.process import training_device
    from unigrec.core.training.loop import Run
    from unigrec.core.training.teacher import train_teacher

    device = training_device()
    params = params_of("small").teacher
    update = {
        "members": 1,
        "epochs": 1,
        "validate_every": 1,
        "validation_users": 64,
        "loss": loss,
        "negatives": negatives,
    }
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


def optimizer(items: int) -> list[dict[str, Any]]:
    return [measured(optimizer_steps, items, lazy=lazy) for lazy in (False, True)]


def optimizer_steps(items: int, lazy: bool) -> dict[str, Any]:
    """Seconds of a backward pass and a step over a table of 64 dimensions of which a batch has read some rows."""
    import torch
    import torch.nn.functional as F

    from unigrec.base.process import training_device
    from unigrec.core.training.engine import make_engine

    training_device()
    torch.manual_seed(0)
    table = torch.nn.Embedding(items, 64)
    engine = make_engine("torch", table, [{"params": list(table.parameters()), "lr": 0.001}], batch_size=1, lazy=lazy)
    seconds = []
    for _ in range(STEPS):
        rows = torch.randint(items, (READ,)).unique()
        began = time.process_time()
        engine.step(F.embedding(rows, table.weight, sparse=lazy).square().sum())
        seconds.append(time.process_time() - began)
    return {"rows read": READ, "CPU ms": 1e3 * median(seconds[1:])}


def kmeans(items: int) -> list[dict[str, Any]]:
    return [measured(kmeans_cost, items, whole=whole) for whole in ((True, False) if items <= 1_000_000 else (False,))]


def kmeans_cost(items: int, whole: bool) -> dict[str, Any]:
    """Seconds and mean squared distance of 256 centroids of points in 32 dimensions, by Lloyd's algorithm or as is."""
    from unigrec.core.models.tokenizers.kmeans import kmeans, lloyd, nearest

    points = generated_embeddings(items, 32)
    began = time.process_time()
    centroids = lloyd(points, 256, 0, 25) if whole else kmeans(points, 256, 0)
    seconds = time.process_time() - began
    return {"CPU s": seconds, "mean squared distance": float(nearest(points, centroids)[0].mean())}


def identifiers(items: int) -> list[dict[str, Any]]:
    return list(in_child(identifier_steps, items=items)[0])


def identifier_steps(items: int) -> list[dict[str, Any]]:
    """Collisions of random codes resolved both ways; codes and health of a tokenizer with 64 codes per level."""
    import numpy as np
    import torch

    from unigrec.core.identifiers.collisions import disambiguate, hard_codes, reassign
    from unigrec.core.identifiers.health import HIT_NEIGHBOURS, HIT_SAMPLE, health
    from unigrec.core.models.tokenizers.residual import Tokenizer
    from unigrec.core.retrieval.cooccurrence import Cooccurring

    steps, generator = Steps(items), np.random.default_rng(0)
    torch.manual_seed(0)
    vectors = torch.randn(items, NARROW)
    size = 256 if items <= 1_000_000 else 1024  # a prefix must not hold more items than there are codewords
    popularity, codes = generator.integers(0, 100, items), generator.integers(0, size, (items, LEVELS))
    steps.measure("disambiguate", lambda: disambiguate(codes, popularity))
    large = Tokenizer(NARROW, 16, [64], LEVELS, size).requires_grad_(False)
    steps.measure("reassign", lambda: reassign(large, vectors, codes))
    small = Tokenizer(NARROW, 16, [64], LEVELS, 64).requires_grad_(False)
    steps.measure("hard codes", lambda: hard_codes(small, vectors))
    count = min(HIT_SAMPLE, items, DISTANCES // items)  # time is linear in their number, memory is not
    chosen = np.sort(generator.choice(items, count, replace=False))
    together = Cooccurring(chosen, generator.integers(0, items, (len(chosen), HIT_NEIGHBOURS)))
    steps.measure("health", lambda: health(small, vectors, popularity, 0.001, together))
    return steps.rows


def neighbours(items: int) -> list[dict[str, Any]]:
    return list(in_child(neighbour_steps, items=items)[0])


def neighbour_steps(items: int) -> list[dict[str, Any]]:
    """Counting of neighbours, and the ranking of 128 users' items by the baselines. A user per item, at most 2 million.

    Users have 5 to 204 interactions, 9 on average.
    """
    import numpy as np
    import torch

    from unigrec.core.evaluation.baselines import Baselines
    from unigrec.core.retrieval.cooccurrence import count_successors
    from unigrec.core.retrieval.neighbour_ranking import count_neighbours

    steps = Steps(items)
    sequences, vectors = generated_sequences(min(items, 2_000_000), items), torch.randn(items, NARROW)
    steps.measure("successors", lambda: count_successors(sequences))
    counted = steps.measure("all neighbours", lambda: count_neighbours(sequences, vectors))
    baselines = steps.measure("baselines", lambda: Baselines(sequences, 20, neighbours=counted))
    steps.measure("ranks of 128 users", lambda: baselines.ranks(np.arange(128)))
    return steps.rows


def evaluation(items: int) -> list[dict[str, Any]]:
    return [measured(ranking_milliseconds, items)]


def ranking_milliseconds(items: int) -> dict[str, Any]:
    """Time per user for the ranks of all baselines, in both protocols, with an untrained teacher of two members."""
    import torch

    from unigrec.core.evaluation.baselines import Baselines
    from unigrec.core.models.ensemble import build_teacher
    from unigrec.core.retrieval.neighbour_ranking import count_neighbours

    sequences = generated_sequences(RANKED_AMONG, items)
    counted = count_neighbours(sequences, torch.randn(items, WIDTH))
    shape = {"items": items, "d_model": 64, "blocks": 2, "heads": 2, "history": 50, "dropout": 0.0, "members": 2}
    baselines = Baselines(sequences, 20, teacher=build_teacher(shape), neighbours=counted)
    users = sequences.evaluation_users()[:RANKED]
    baselines.ranks(users[:1])
    began = time.process_time()
    baselines.ranks(users)
    return {"ranks of a user, CPU ms": 1000 * (time.process_time() - began) / len(users)}


class Steps:
    """Steps of one process: seconds of each, and its peak memory above what was held when it began."""

    def __init__(self, items: int):
        self.items, self.rows = items, list[dict[str, Any]]()

    def measure(self, name: str, step: Callable[[], Any]) -> Any:
        """Run a step, and add its row. Returns the step's result."""
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
        held, began = _memory("VmRSS"), time.process_time()
        result = step()
        row = {"items": self.items, "step": name, "CPU s": time.process_time() - began}
        row |= {"held before, GB": held / 1e9, "peak above, GB": (_memory("VmHWM") - held) / 1e9}
        self.rows.append(row)
        say(f"large_catalogue: {row}")
        return result


def _memory(name: str) -> int:
    """A figure of this process in bytes: VmRSS (held now) or VmHWM (its peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


PARTS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "teacher": teacher,
    "optimizer": optimizer,
    "k-means": kmeans,
    "identifiers": identifiers,
    "neighbours": neighbours,
    "evaluation": evaluation,
}


if __name__ == "__main__":
    from benchmarks import large_catalogue  # by its name, so that a process of its own finds its functions

    large_catalogue.main()
