"""`python -m benchmarks.large_training`: memory and speed of the stages, where log and catalogue are large.

The outputs of `prepare` and `embed` are generated piece by piece. Each stage runs in a process of its own: of a
training its whole set-up, a number of steps, the end of an epoch with one validation, its checkpoint, and its outputs
for the next stage; `harden`, `rank` and `evaluate` as a whole. Times are CPU times, but for the last column.

Shapes: U users, n interactions, N items, D numbers per vector.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.speed.harness import ROOT, in_child, say
from unigrec.base import files
from unigrec.base.markdown import markdown_table
from unigrec.base.paths import Artifacts
from unigrec.config.profiles import parse_setting, with_values
from unigrec.config.read import parse_params, read_mapping

STAGES = ("teacher", "tokenizer", "joint", "harden", "finetune", "rank", "evaluate")
ROWS_AT_ONCE = 2**20
LEAST = 5  # interactions of a user
DAY, START = 86_400, 1_500_000_000
CHANGES: dict[str, Any] = {
    "teacher.loss": "sampled",
    "teacher.validation_users": 1000,
    "tokenizer.codebook_size": 256,  # 256 ** 3 identifiers, for a million items
    "harden.resolution": "disambiguate",  # hundreds of items may share a prefix after so few steps
    "joint.distillation_warmup_epochs": 0,  # so that the measured steps have every loss
    "joint.validation_users": 1000,
    "rank.validation_users": 1000,
    "evaluate.max_users": 1000,
}
GIB = 2**30
LOOK_SECONDS = 0.02  # between two looks at the memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--interactions", type=int, default=50_000_000)
    parser.add_argument("--users", type=int, help="default: one per 20 interactions")
    parser.add_argument("--width", type=int, default=384, help="of the items' vectors")
    parser.add_argument("--steps", type=int, default=100, help="of each training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.KEY=VALUE", help="params that differ")
    parser.add_argument("--folder", type=Path, help="keep the inputs and outputs there, and use those that are there")
    parser.add_argument("--limit", type=float, default=14.0, help="GiB of memory above which a process ends itself")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="large-training-") as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "embed").exists():
            users = options.users or options.interactions // 20
            sizes = {"items": options.items, "users": users, "interactions": options.interactions}
            _, usage = in_child(write_inputs, folder=str(folder), width=options.width, **sizes)
            say(f"large_training: wrote the inputs in {usage.wall:.0f} s, peak {usage.peak / GIB:.2f} GiB")
        rows = [measure(stage, folder, options) for stage in options.stages]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    print(markdown_table(columns, [[_shown(row.get(column, "")) for column in columns] for row in rows]))


def measure(stage: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A row of the table."""
    settings = {"folder": str(folder), "steps": options.steps, "limit": options.limit, "changes": options.set}
    found, usage = in_child(run_stage, threads=options.threads, stage=stage, **settings)
    row = {"stage": stage, **found, "whole s": usage.cpu, "wall s": usage.wall}
    say(f"large_training: {row}")
    return row


def _shown(value: Any) -> str:
    return f"{value:,.3g}" if isinstance(value, float) and value < 100 else str(value) if value == "" else _whole(value)


def _whole(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:,.0f}"


# The inputs


def write_inputs(folder: str, items: int, users: int, interactions: int, width: int, seed: int = 0) -> None:
    """Write what the trainings read of `prepare`, `warm_start` and `embed`; memory is that of the users and of a piece.

    Lengths of the users and popularity of the items have long tails. Vectors lie around the centres of kinds of items,
    and these around the centres of kinds of kinds.
    """
    artifacts, generator = Artifacts(Path(folder)), np.random.default_rng(seed)
    scratch = artifacts.root / "scratch"
    scratch.mkdir(parents=True)
    offsets = np.r_[0, np.cumsum(lengths_of(users, interactions, generator))]
    popularity = np.cumsum(1.0 / (np.arange(items) + 10.0) ** 0.8)
    log = {
        name: mapped(scratch / name, (interactions,), kind) for name, kind in (("items", "i4"), ("timestamps", "i8"))
    }
    for start in range(0, interactions, ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, interactions))
        drawn = generator.random(rows.stop - start) * popularity[-1]
        log["items"][rows] = np.searchsorted(popularity, drawn, side="right").clip(0, items - 1)
        position = np.arange(rows.start, rows.stop)
        user = np.searchsorted(offsets, position, side="right") - 1
        log["timestamps"][rows] = START + DAY * (position - offsets[user])
    files.write_tensors(artifacts.sequences, {**log, "offsets": offsets})
    numbers = pa.array(np.arange(items, dtype=np.int32))
    files.write_table(artifacts.catalogue, pa.table({"item_index": numbers, "item_id": numbers.cast(pa.string())}))
    files.write_json(artifacts.warm_start / "bundle.json", {"bundle": None})
    vectors = mapped(scratch / "vectors", (items, width), "f4")
    kinds = generator.standard_normal((max(items // 40, 2), width), np.float32)
    kinds += (
        1.5
        * generator.standard_normal((max(items // 4000, 2), width), np.float32)[
            generator.integers(0, max(items // 4000, 2), len(kinds))
        ]
    )
    for start in range(0, items, ROWS_AT_ONCE // 16):
        rows = slice(start, min(start + ROWS_AT_ONCE // 16, items))
        kind = generator.integers(0, len(kinds), rows.stop - start)
        vectors[rows] = kinds[kind] + 0.7 * generator.standard_normal((len(kind), width), np.float32)
    files.write_tensors(artifacts.embeddings, {"embedding": vectors})
    files.write_json(artifacts.modalities, [{"modality": "text", "width": width}])
    shutil.rmtree(scratch)


def lengths_of(users: int, interactions: int, generator: np.random.Generator) -> np.ndarray:
    """(U,) interactions per user: at least `LEAST`, with a long tail, `interactions` in all."""
    weights = generator.lognormal(0.0, 1.3, users)
    lengths = LEAST + (weights / weights.sum() * (interactions - LEAST * users)).astype(np.int64)
    lengths[: interactions - int(lengths.sum())] += 1  # what rounding has left
    return lengths


def mapped(path: Path, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """An array that lies in a file."""
    return np.memmap(path, np.dtype(kind), "w+", shape=shape)


# The stages


class Memory(threading.Thread):
    """Watches this process: the peaks of its resident memory, in all and by kind.

    Attributes:
        peaks: in bytes. `anonymous` is what the process holds. `mapped` are pages of files that it has read, which the
            system takes back when it needs them.
    """

    def __init__(self, limit: float):
        super().__init__(daemon=True)
        self.limit = limit * GIB
        self.peaks = {"anonymous": 0, "mapped": 0}

    def run(self) -> None:
        while True:
            now = status_bytes()
            for name, key in (("anonymous", "RssAnon"), ("mapped", "RssFile")):
                self.peaks[name] = max(self.peaks[name], now[key])
            if now["RssAnon"] > self.limit:
                print(f"more than {self.limit / GIB:.1f} GiB of memory", file=sys.stderr, flush=True)
                os._exit(3)
            time.sleep(LOOK_SECONDS)


def status_bytes() -> dict[str, int]:
    """The memory of this process, as Linux counts it."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


class Times:
    """CPU seconds of the parts of a training: other work on the machine changes them less than the time of a clock."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self.began = time.process_time()
        self.ticks: list[float] = []
        self.batches = 0  # of an epoch

    def of(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose time counts as that of a part."""

        def timed(*arguments: Any) -> Any:
            began = time.process_time()
            try:
                return work(*arguments)
            finally:
                self.parts[part] = self.parts.get(part, 0.0) + time.process_time() - began
                say(f"large_training: {part} done; {_sizes(status_bytes())}")

        return timed

    def tick(self, moment: Any) -> None:
        self.ticks.append(time.process_time())

    def row(self) -> dict[str, Any]:
        """Columns of the table. The first steps are left out: they make the buffers."""
        first = min(max(len(self.ticks) // 10, 1), len(self.ticks) - 1)
        step = (self.ticks[-1] - self.ticks[first]) / (len(self.ticks) - 1 - first)
        epoch = {"step ms": 1000 * step, "steps per epoch": self.batches, "epoch h": self.batches * step / 3600}
        return {"set-up s": self.parts.pop("set-up")} | epoch | {f"{name} s": s for name, s in self.parts.items()}


def _sizes(memory: dict[str, int]) -> str:
    return ", ".join(f"{name} {memory[name] / GIB:.2f} GiB" for name in ("VmHWM", "RssAnon", "RssFile"))


def run_stage(stage: str, folder: str, steps: int, limit: float, changes: list[str]) -> dict[str, Any]:
    """Run a stage with one epoch of `steps` batches, and measure it."""
    from unigrec.base.process import training_device
    from unigrec.core.training import loop
    from unigrec.core.training.checkpoint import CheckpointFolder
    from unigrec.pipeline import stages

    memory, times = Memory(limit), Times()
    memory.start()
    values = with_values(read_mapping(ROOT / "params.yaml"), CHANGES)
    params = parse_params(with_values(values, dict(map(parse_setting, changes))))
    loop._Training = bounded(loop._Training, steps, times)  # type: ignore[assignment, misc]
    root = Path(folder)
    checkpoints = CheckpointFolder(root / "checkpoints" / stage, "benchmark", every_seconds=float("inf"))
    shutil.rmtree(checkpoints.folder, ignore_errors=True)
    checkpoints.save = times.of("checkpoint", checkpoints.save)  # type: ignore[method-assign]
    run = loop.Run(params.seed, training_device(), lambda step, row: None, checkpoints=checkpoints, tick=times.tick)
    getattr(stages, stage)(params, Artifacts(root), run)
    row = times.row() if times.ticks else {}
    peaks = {"peak": status_bytes()["VmHWM"], **memory.peaks}
    return row | {f"{name} GiB": value / GIB for name, value in peaks.items()}


def bounded(training: Any, steps: int, times: Times) -> type:
    """The same training with one epoch of at most `steps` batches, whose parts are timed."""

    class Bounded(training):
        def __init__(self, phase: Any, engine: Any, run: Any):
            def batches(epoch: int) -> list[Any]:
                every = times.of("batches", phase.batches)(epoch)
                times.batches = len(every)
                times.parts["set-up"] = time.process_time() - times.began
                times.ticks.append(time.process_time())
                return every[:steps]

            parts = {"end_epoch": "end of epoch", "validate": "validation"}
            timed = {key: times.of(name, getattr(phase, key)) for key, name in parts.items() if getattr(phase, key)}
            super().__init__(replace(phase, epochs=1, batches=batches, **timed), engine, run)

        def epoch(self) -> None:
            super().epoch()
            self.progress.stopped = True

    return Bounded


if __name__ == "__main__":
    from benchmarks import large_training  # by its name, so that a process of its own finds its functions

    large_training.main()
