"""The joint training step against the same step from public parts (benchmarks/speed/t5.py), at the published size.

Every row has the same users' histories and targets, losses, optimizer and clipping, on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.harness import Options, Table, Timing, alternate, in_child, ratio, say
from benchmarks.speed.joint_data import joint_data, profile_params, untrained
from benchmarks.speed.t5 import PublicParts, padded_samples
from unigrec.data.batches import Segments
from unigrec.models.layers import ONEDNN, product
from unigrec.training.engine import make_engine
from unigrec.training.joint import JointData, joint_losses, parameter_groups
from unigrec.training.samples import TrainingSamples, make_samples

OURS, HALF, CAUSAL, PUBLIC = "ours, fp32", "ours, bf16", "ours, causal encoder, fp32", "public parts, fp32"
ROWS = (OURS, HALF, CAUSAL, PUBLIC)
LENGTHS = (5, 20, 50, 100, 200)
DISTINCT = 2_000  # items that the histories of one length are drawn from
TINY = {"d_model": 16, "d_ff": 32, "d_kv": 8, "encoder_layers": 1, "decoder_layers": 1}


class Steps:
    """Training steps of one row of the table."""

    def __init__(self, name: str, artifacts: str | None, quick: bool):
        changes = (TINY if quick else {}) | {"causal": name == CAUSAL}
        params = profile_params("paper", **changes)
        data = joint_data(Path(artifacts) if artifacts else None, quick)
        self.joint = params.joint.model_copy(
            update={"precision": "bf16" if name == HALF else "fp32", "batch_size": 32 if quick else 512}
        )
        self.data: JointData = data
        ours, self.codes = untrained(data, params)
        self.public = name == PUBLIC
        self.model: Any = ours
        if self.public:
            self.model = PublicParts(ours)
        groups = parameter_groups(self.model, self.joint)
        self.engine = make_engine("torch", self.model, groups, self.joint.batch_size)
        self.model.train()
        self.samples = TrainingSamples(data.sequences, self.joint.history, causal=name == CAUSAL)
        batches = self.samples.batches(self.joint.batch_size, seed=0, epoch=0)
        self.batches = sorted(batches, key=lambda rows: int(self.samples[rows].lengths.max()))  # of near-equal lengths

    def step(self, batch: Segments, history: int) -> int:
        """One update; returns the number of samples. history: items to which public parts pad."""
        samples = padded_samples(batch, history) if self.public else make_samples(batch, torch.device("cpu"))
        codes: Tensor = self.codes[samples.targets]
        losses = joint_losses(
            self.engine.forward, samples, codes, self.data, self.joint, self.joint.temperature_end, distil=True
        )
        self.engine.step(losses["loss"])
        return len(samples.targets)

    def round(self, number: int, steps: int) -> int:
        """A few batches that stand for an epoch: short, middling and long histories; returns the number of samples."""
        places = [int((place + 0.5) / steps * (len(self.batches) - 1)) for place in range(steps)]
        rows = [self.batches[(place + number) % len(self.batches)] for place in places]
        return sum(self.step(self.samples[one], self.joint.history) for one in rows)


def compared(artifacts: str | None, quick: bool, rounds: int, steps: int) -> dict[str, Any]:
    """All rows in one process, in turn: their timings, samples and operations, and what a plain product reaches."""
    rows = {name: Steps(name, artifacts, quick) for name in ROWS}
    samples: dict[str, list[int]] = {name: [] for name in ROWS}

    def call(name: str) -> Callable[[int], None]:
        return lambda number: samples[name].append(rows[name].round(number, steps))

    timings = alternate({name: call(name) for name in ROWS}, rounds, log=say)
    operations = {name: gigaflops(rows[name], steps) for name in ROWS}
    return {
        name: {
            "cpu": timings[name].cpu,
            "wall": timings[name].wall,
            "samples": samples[name][-rounds:],
            "GFLOP": operations[name],
            "peak": plain_product(torch.bfloat16 if name == HALF else torch.float32, 256 if quick else 2048),
        }
        for name in ROWS
    }


def gigaflops(steps: Steps, count: int) -> float:
    """Operations of products, a sample, in a round."""

    def operations(rows: Any, weight: Any, *_: Any, **__: Any) -> int:
        return 2 * int(np.prod(rows)) * weight[0]

    mapping = {torch.ops.mkldnn._linear_pointwise: operations} if ONEDNN else {}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        samples = steps.round(0, count)
    return counter.get_total_flops() / samples / 1e9


def plain_product(dtype: torch.dtype, size: int) -> float:
    """GFLOP/s of a large square product: the best of a few, by the faster of torch's product and ours."""
    left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    taken = []
    for multiply in (torch.matmul, product):
        for _ in range(4):
            started = time.process_time()
            multiply(left, right)
            taken.append(time.process_time() - started)
    return 2 * size**3 / max(min(taken), 1e-9) / 1e9


def steps_alone(name: str, artifacts: str | None, quick: bool, steps: int) -> None:
    """A row's steps in a process of their own, for its peak memory."""
    Steps(name, artifacts, quick).round(0, steps)


def by_length(lengths: list[int], samples: int, quick: bool, rounds: int) -> dict[str, Any]:
    """CPU seconds of a step on histories of one length, for each length: {length: {row: seconds a round}}."""
    found: dict[str, Any] = {}
    names = (OURS, CAUSAL, PUBLIC)
    rows = {name: Steps(name, None, quick) for name in names}
    for length in lengths:
        batch = histories_of(length, samples, rows[OURS].data.sequences.catalogue_size)

        def call(name: str, batch: Segments = batch, length: int = length) -> Callable[[int], int]:
            return lambda number: rows[name].step(batch, length)

        timings = alternate({name: call(name) for name in names}, rounds)
        found[str(length)] = {name: timing.cpu for name, timing in timings.items()}
    return found


def histories_of(length: int, samples: int, catalogue: int) -> Segments:
    """A batch of histories of one length with one target each."""
    generator = np.random.default_rng(length)
    items = generator.integers(0, min(DISTINCT, catalogue), (samples, length))
    ones = np.ones(samples, np.int64)
    return Segments(items, length * ones, ones, generator.integers(0, 100, samples))


def run(options: Options) -> list[Table]:
    """The part of the benchmark: a table of steps, and one of growth with the length of the histories."""
    artifacts = str(options.artifacts.resolve()) if options.artifacts else None
    rounds, steps = (2, 1) if options.quick else (3, 4)
    found, _ = in_child(compared, artifacts=artifacts, quick=options.quick, rounds=rounds, steps=steps)
    public = Timing(found[PUBLIC]["cpu"], found[PUBLIC]["wall"])
    rows = []
    for name in ROWS:
        say(f"memory of {name}")
        _, usage = in_child(
            steps_alone, name=name, artifacts=artifacts, quick=options.quick, steps=1 if options.quick else 4
        )
        rows.append(step_row(name, found[name], public, found[PUBLIC]["samples"], usage.peak))
    source = "the given artifacts" if artifacts else "generated data with lengths as in Amazon Beauty"
    notes = [
        f"{source}; profile paper, {rounds} rounds of {steps} batches, of short to long histories; one "
        "process and thread",
        "public parts: transformers' T5 blocks, histories padded to 20 items, one for each target, tokenizer run for "
        "each place; ratio: its CPU time a sample over the row's, of medians, and least and most of the rounds",
        "peak share: of a plain large product in the row's precision, the faster of torch's and oneDNN's; peak memory: "
        "the whole process",
    ]
    lengths = [2, 3] if options.quick else list(LENGTHS)
    samples = 4 if options.quick else 32
    grown, _ = in_child(
        by_length, lengths=lengths, samples=samples, quick=options.quick, rounds=1 if options.quick else 3
    )
    growth = [growth_row(int(length), cells, samples) for length, cells in grown.items()]
    return [
        Table("A joint training step", rows, notes),
        Table(
            "A joint training step by length of the history",
            growth,
            [f"{samples} samples of exactly that many items, one target each; profile paper, fp32, CPU ms a sample"],
        ),
    ]


def step_row(name: str, found: dict[str, Any], public: Timing, public_samples: list[int], peak: int) -> dict[str, Any]:
    """A row of the first table."""
    samples, cpu = sum(found["samples"]), sum(found["cpu"])
    # A causal encoder's batches do not hold exactly as many samples: time is compared by the sample.
    one = Timing([seconds / count for seconds, count in zip(found["cpu"], found["samples"], strict=True)])
    other = Timing([seconds / count for seconds, count in zip(public.cpu, public_samples, strict=True)])
    times = ratio(other, one)
    return {
        "step": name,
        "samples/s": samples / cpu,
        "CPU ms a sample": cpu / samples * 1e3,
        "ratio": times.of_medians,
        "ratio, least": times.least,
        "ratio, most": times.most,
        "GFLOP a sample": found["GFLOP"],
        "GFLOP/s": found["GFLOP"] * samples / cpu,
        "share of peak": found["GFLOP"] * samples / cpu / found["peak"],
        "peak memory GB": peak / 1e9,
    }


def growth_row(length: int, cells: dict[str, list[float]], samples: int) -> dict[str, Any]:
    """A row of the second table."""
    milliseconds = {name: min(seconds) / samples * 1e3 for name, seconds in cells.items()}
    return {"items": length, **milliseconds, "ratio": milliseconds[PUBLIC] / milliseconds[OURS]}
