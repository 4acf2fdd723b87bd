"""The joint training step, compared with the same step from public parts (benchmarks/speed/t5.py), at published size.

Every row has the same histories, targets, losses, optimizer and clipping, and runs on one thread.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.harness import Options, Table, Timing, ratio, say
from benchmarks.speed.held import alternate, held_each
from benchmarks.speed.joint_data import joint_data, profile_params, untrained
from benchmarks.speed.t5 import PublicParts, padded_samples
from unigrec.base.process import keep_memory, training_device
from unigrec.core.models.cpu.operators import ONEDNN, cpu_matmul
from unigrec.core.sequences import Segments
from unigrec.core.training.engine import make_engine
from unigrec.core.training.joint import JointData, joint_losses, trained_groups
from unigrec.core.training.samples import TrainingSamples, make_samples

OURS, HALF, CAUSAL = "ours, fp32", "ours, bf16", "ours, causal encoder, fp32"
PUBLIC, KEPT = "public parts, fp32", "public parts, fp32, memory kept"
ROWS = (OURS, HALF, CAUSAL, PUBLIC, KEPT)
LENGTHS = (5, 20, 50, 100, 200)
DISTINCT = 2_000  # number of items to draw the histories of one length from
TINY = {"d_model": 16, "d_ff": 32, "d_kv": 8, "encoder_layers": 1, "decoder_layers": 1}


class Steps:
    """Training steps of one row of the table, in their own process, configured as in real use."""

    def __init__(self, name: str, artifacts: str | None, quick: bool):
        self.name, self.quick, self.public = name, quick, name in (PUBLIC, KEPT)
        if not self.public:
            training_device()
        elif name == KEPT:
            keep_memory()
        changes = (TINY if quick else {}) | {"causal": name == CAUSAL}
        params = profile_params("paper", **changes)
        data = joint_data(artifacts, quick)
        self.joint = params.joint.model_copy(
            update={"precision": "bf16" if name == HALF else "fp32", "batch_size": 32 if quick else 512}
        )
        self.data: JointData = data
        ours, self.codes = untrained(data, params)
        self.model: Any = ours
        if self.public:
            self.model = PublicParts(ours)
        groups = trained_groups(self.model, self.joint)
        self.engine = make_engine("torch", self.model, groups, self.joint.batch_size)
        self.model.train()
        self.samples = TrainingSamples(data.sequences, self.joint.history, causal=name == CAUSAL)
        batches = self.samples.batches(self.joint.batch_size, seed=0, epoch=0)
        self.batches = sorted(batches, key=lambda rows: int(self.samples[rows].lengths.max()))  # by length

    def step(self, batch: Segments, history: int) -> int:
        """Run one update; returns the number of samples. history: length to which public parts pad."""
        samples = padded_samples(batch, history) if self.public else make_samples(batch, torch.device("cpu"))
        losses = joint_losses(
            self.engine.forward, samples, self.codes, self.data, self.joint, self.joint.temperature_end, distil=True
        )
        self.engine.step(losses["loss"])
        return len(samples.targets)

    def round(self, number: int, steps: int) -> int:
        """Train on a few batches, evenly from short to long histories; returns the number of samples."""
        places = [int((place + 0.5) / steps * (len(self.batches) - 1)) for place in range(steps)]
        rows = [self.batches[(place + number) % len(self.batches)] for place in places]
        return sum(self.step(self.samples[one], self.joint.history) for one in rows)

    def warm(self) -> None:
        """Train on the longest batch, to allocate again the memory that `rest` has returned."""
        self.step(self.samples[self.batches[-1]], self.joint.history)

    def rest(self) -> None:
        """Return freed memory to the kernel: the processes of all rows would not fit into memory otherwise."""
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim is not None:
            trim(0)

    def step_of_length(self, number: int, length: int, samples: int) -> None:
        """Run one update on histories of one length, the same in every round."""
        self.step(histories_of(length, samples, self.data.sequences.catalogue_size), length)

    def rates(self, steps: int) -> tuple[float, float]:
        """GFLOP per sample of a round, and GFLOP/s of a large matrix product in the row's precision."""
        found = self.gigaflops(steps), self.matmul_rate()
        self.rest()
        return found

    def gigaflops(self, steps: int) -> float:
        """GFLOP of matrix products per sample, over a round."""

        def operations(rows: Any, weight: Any, *_: Any, **__: Any) -> int:
            return 2 * int(np.prod(rows)) * weight[0]

        mapping = {torch.ops.mkldnn._linear_pointwise: operations} if ONEDNN else {}
        with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
            samples = self.round(0, steps)
        return counter.get_total_flops() / samples / 1e9

    def matmul_rate(self) -> float:
        return matmul_rate(torch.bfloat16 if self.name == HALF else torch.float32, 256 if self.quick else 2048)


def matmul_rate(dtype: torch.dtype, size: int) -> float:
    """GFLOP/s of a large square matrix product: the best of a few runs, by the faster of torch and oneDNN."""
    left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    taken = []
    for multiply in (torch.matmul, cpu_matmul):
        for _ in range(4):
            started = time.process_time()
            multiply(left, right)
            taken.append(time.process_time() - started)
    return 2 * size**3 / max(min(taken), 1e-9) / 1e9


def histories_of(length: int, samples: int, catalogue: int) -> Segments:
    """A batch of random histories of one length with one target each."""
    generator = np.random.default_rng(length)
    items = generator.integers(0, min(DISTINCT, catalogue), (samples, length))
    ones = np.ones(samples, np.int64)
    return Segments(items, length * ones, ones, generator.integers(0, 100, samples), np.arange(samples))


def run(options: Options) -> list[Table]:
    """Measure the table of steps, and the table of growth with the length of the histories."""
    artifacts = str(options.artifacts.resolve()) if options.artifacts else None
    return [_steps(artifacts, options.quick), _growth(options.quick)]


def _steps(artifacts: str | None, quick: bool) -> Table:
    rounds, steps = (2, 1) if quick else (3, 4)
    with held_each(Steps, "name", ROWS, artifacts=artifacts, quick=quick) as held:
        timings = alternate(held, rounds, before="warm", after="rest", steps=steps, log=say)
        peaks = {name: row.peak for name, row in held.items()}
        rows = [
            step_row(name, timings, *row.call("rates", steps=steps)) | {"peak memory GB": peaks[name] / 1e9}
            for name, row in held.items()
        ]
    source = "the given artifacts" if artifacts else "generated data with lengths as in Amazon Beauty"
    notes = [
        f"{source}; profile paper, {rounds} rounds of {steps} batches, from short to long histories; each row in its "
        "own process, one thread",
        "public parts: transformers' T5 blocks, histories padded to 20 items, one history per target, the tokenizer "
        "runs per position. ratio: CPU time per sample of public parts over that of the row: of the medians, and the "
        "least and the most of the rounds",
        "Before each round runs one step that does not count. After the round freed memory is returned to the kernel, "
        "because the waiting processes share the machine's memory",
        f"Ours is configured as in the stage joint, public parts run at their defaults. {KEPT}: after keep_memory(), "
        "one line that anybody can add. With it the C library keeps freed memory instead of returning it to the "
        "kernel. ratio, memory kept: CPU time per sample of that row over that of the row, of the medians",
        "share of peak: share of the speed of a large matrix product in the row's precision, by the faster of torch "
        "and oneDNN. peak memory: of the whole process, over all rounds",
    ]
    return Table("A joint training step", rows, notes)


def step_row(name: str, timings: dict[str, Timing], gigaflops: float, matmul_rate: float) -> dict[str, Any]:
    """A row of the first table, without memory. The results of the timings are numbers of samples."""
    # Batches of a causal encoder hold a slightly different number of samples, so time is compared per sample.
    per_sample = {
        row: Timing([seconds / count for seconds, count in zip(timing.cpu, timing.results, strict=True)])
        for row, timing in timings.items()
    }
    times = ratio(per_sample[PUBLIC], per_sample[name])
    samples, cpu = sum(timings[name].results), sum(timings[name].cpu)
    return {
        "step": name,
        "samples/s": samples / cpu,
        "CPU ms per sample": cpu / samples * 1e3,
        "ratio": times.of_medians,
        "ratio, least": times.least,
        "ratio, most": times.most,
        "ratio, memory kept": ratio(per_sample[KEPT], per_sample[name]).of_medians,
        "GFLOP per sample": gigaflops,
        "GFLOP/s": gigaflops * samples / cpu,
        "share of peak": gigaflops * samples / cpu / matmul_rate,
    }


def _growth(quick: bool) -> Table:
    lengths, samples, rounds = ([2, 3], 4, 1) if quick else (list(LENGTHS), 32, 3)
    with held_each(Steps, "name", (OURS, CAUSAL, PUBLIC), artifacts=None, quick=quick) as held:
        rows = [
            growth_row(length, alternate(held, rounds, "step_of_length", length=length, samples=samples), samples)
            for length in lengths
        ]
    return Table(
        "A joint training step by history length",
        rows,
        [f"{samples} samples of exactly that many items, one target each; profile paper, fp32, CPU ms per sample"],
    )


def growth_row(length: int, timings: dict[str, Timing], samples: int) -> dict[str, Any]:
    """A row of the table of growth."""
    milliseconds = {name: min(timing.cpu) / samples * 1e3 for name, timing in timings.items()}
    return {"items": length, **milliseconds, "ratio": milliseconds[PUBLIC] / milliseconds[OURS]}
