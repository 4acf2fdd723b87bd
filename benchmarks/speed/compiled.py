"""Our CPU kernels, the plain modules of the same model, and those under `torch.compile`: a joint step, and decoding.

`plain` is the path that the model takes on a GPU: torch's own operators, one by one, and torch's dropout. Every row is
set up as the stages are, on one thread, so that rows differ in what computes the layers and in nothing else.

Compiled are the transformer's layers, one by one, and the tokenizer's quantization, with sizes left open: layers of one
kind share their code, so that it is compiled once and not once per layer.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.utils import counters

from benchmarks.speed import decoding as evaluation
from benchmarks.speed import training
from benchmarks.speed.harness import Options, Table, Timing, in_child, ratio, say
from benchmarks.speed.held import alternate, held_each
from unigrec.base.process import training_device
from unigrec.core.models import layers, recommender
from unigrec.core.models.cpu import operators
from unigrec.core.models.inference import InferenceRecommender
from unigrec.core.models.unified import UnifiedModel
from unigrec.core.retrieval import beam
from unigrec.core.training.joint import joint_losses
from unigrec.core.training.samples import make_samples

OURS, PLAIN, COMPILED = "ours", "plain modules", "plain modules, torch.compile"
PUBLIC, PUBLIC_COMPILED = "public parts", "public parts, torch.compile"
ROWS, PUBLIC_ROWS = (OURS, PLAIN, COMPILED), (PUBLIC, PUBLIC_COMPILED)
LONG_SAMPLES = 32
AS_MANY_LENGTHS = 12  # batches, from the shortest histories to the longest, that ask for recompilation
INDUCTOR = "inductor"  # what compiles; with "eager" torch.compile reads the code and runs it as it is
CACHE = "TORCHINDUCTOR_CACHE_DIR"  # what Inductor has compiled; a new folder: nothing


def never(hidden: Tensor) -> bool:
    """Stands for `uses_cpu_backward`: no backward pass of ours is used."""
    return False


@contextmanager
def plain_path(compiled: bool = False, backend: str = INDUCTOR) -> Iterator[None]:
    """Inside, the model and the decoding of this process use no kernel of ours; see `make_plain` for dropout.

    compiled: whether what decodes is; a model's layers are compiled by `compile_layers`.
    """
    compute = torch.compile(plain_layer, dynamic=True, backend=backend) if compiled else plain_layer
    with ExitStack() as stack:
        for module in (layers, operators, recommender):
            stack.enter_context(patch.object(module, "uses_cpu_backward", never))
        stack.enter_context(patch.object(operators, "matmul", F.linear))
        for name in ("encode", "position_logits"):
            stack.enter_context(patch.object(InferenceRecommender, name, of_the_recommender(name)))
        stack.enter_context(patch.object(beam, "DecoderCache", partial(PlainCache, compute)))
        yield


def of_the_recommender(name: str) -> Callable[..., Tensor]:
    """A method of `InferenceRecommender` that the recommender itself computes."""
    return lambda network, *inputs: getattr(network.recommender, name)(*inputs)


def make_plain(model: nn.Module) -> None:
    """Put torch's dropout in the place of ours."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, layers.Dropout):
                setattr(module, name, nn.Dropout(child.p))


def compile_layers(model: Any, backend: str = INDUCTOR) -> None:
    """Compile a `UnifiedModel`'s, a `PublicParts`' or a `Recommender`'s layers, and its tokenizer's quantization."""
    transformer = getattr(model, "recommender", model)
    stacks = transformer.encoder, transformer.decoder
    for layer in [layer for stack in stacks for layer in (stack.layers if hasattr(stack, "layers") else stack.block)]:
        layer.compile(dynamic=True, backend=backend)
    if hasattr(model, "tokenizer"):
        quantize_soft = model.tokenizer.quantize_soft
        model.tokenizer.quantize_soft = torch.compile(quantize_soft, dynamic=True, backend=backend)


def without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, layers.Dropout | nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):  # of T5's attention
            module.dropout = 0.0  # type: ignore[assignment]


def graphs() -> int:
    """How many graphs this process has compiled so far."""
    return counters["stats"]["unique_graphs"]


def cpu_seconds() -> float:
    """Of this process and of the compilers that it has started and that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def first_round(work: Callable[[], Any]) -> dict[str, float]:
    """The first work of a process, in which everything is compiled: seconds, and graphs."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    work()
    return {"cpu": cpu_seconds() - cpu, "wall": time.perf_counter() - wall, "graphs": graphs()}


def prepare_process(name: str, cache: str, stack: ExitStack) -> None:
    """Set this process up as a stage does, and let Inductor find nothing that was compiled before."""
    os.environ[CACHE] = tempfile.mkdtemp(dir=cache)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    training_device()
    if name in (PLAIN, COMPILED):
        stack.enter_context(plain_path(name == COMPILED))


class Steps(training.Steps):
    """Training steps of a row, in a process of its own."""

    def __init__(self, name: str, artifacts: str | None, quick: bool, cache: str):
        self.stack = ExitStack()
        prepare_process(name, cache, self.stack)
        public = name in (PUBLIC, PUBLIC_COMPILED)
        super().__init__(training.PUBLIC if public else training.OURS, artifacts, quick)
        if name in (PLAIN, COMPILED):
            make_plain(self.model)
        if name in (COMPILED, PUBLIC_COMPILED):
            compile_layers(self.model)

    def first(self, steps: int) -> dict[str, float]:
        found = first_round(lambda: self.round(0, steps))
        self.rest()
        return found

    def lengths(self, batches: int) -> int:
        """Steps on batches of all lengths, each at a temperature of its own; how many graphs they had compiled."""
        before = graphs()
        for number in range(batches):
            place = number * (len(self.batches) - 1) // max(batches - 1, 1)
            self.joint = self.joint.model_copy(update={"temperature_end": 0.001 * (2 + number)})
            self.step(self.samples[self.batches[place]], self.joint.history)
        return graphs() - before


def differences(artifacts: str | None, quick: bool, cache: str, backend: str = INDUCTOR) -> dict[str, dict[str, float]]:
    """For each way to compute a joint step but ours: how far losses and gradients are from ours, without dropout.

    In shares of the loss, and of the parameter's largest gradient. One batch of middling length, in one process.
    """
    steps = Steps(OURS, artifacts, quick, cache)
    without_dropout(steps.model)
    expected = losses_and_gradients(steps, steps.model)
    found = {}
    with plain_path():
        make_plain(steps.model)
        for name in (PLAIN, COMPILED):
            if name == COMPILED:
                compile_layers(steps.model, backend)
            found[name] = distance(expected, losses_and_gradients(steps, steps.model))
    return found


def losses_and_gradients(steps: Steps, model: UnifiedModel) -> tuple[dict[str, float], dict[str, Tensor]]:
    samples = make_samples(steps.samples[steps.batches[len(steps.batches) // 2]], torch.device("cpu"))
    model.zero_grad()
    start = steps.joint.temperature_start
    losses = joint_losses(
        model, samples, steps.codes, data=steps.data, params=steps.joint, temperature=start, distil=True
    )
    losses["loss"].backward()
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    return {name: loss.item() for name, loss in losses.items()}, gradients


def distance(expected: Any, found: Any) -> dict[str, float]:
    (losses, gradients), (their_losses, their_gradients) = expected, found
    assert set(losses) == set(their_losses)
    assert set(gradients) == set(their_gradients)
    by_gradient = {
        name: ((their_gradients[name] - one).abs().max() / one.abs().max().clamp_min(1e-12)).item()
        for name, one in gradients.items()
    }
    by_loss = {name: abs(their_losses[name] - one) / max(abs(one), 1e-12) for name, one in losses.items()}
    return {"loss": max(by_loss.values()), "gradient": max(by_gradient.values())}


class PlainCache:
    """Keys and values of the decoder as they are written down first: one tensor a layer, read by torch's attention.

    Does what `decoder_cache.DecoderCache` does. compute: `plain_layer`, or that compiled.
    """

    def __init__(self, compute: Any, network: InferenceRecommender, memory: Tensor, mask: Tensor, queries: int = 1):
        model = network.recommender
        self.compute, self.norm, stack = compute, model.decoder.norm, model.decoder
        self.layers = [layer for layer in stack.layers if isinstance(layer, recommender.Layer)]
        bias = stack.memory_bias(mask, 1, memory.dtype)
        self.read = [(*layer.cross_keys_values(memory), bias) for layer in self.layers]
        positions = len(model.config.code_sizes)
        self.bias = stack.bias(positions, memory.device)[0]  # (H, positions, positions)
        self.past: list[Any] = [(None, None)] * len(self.layers)  # (B, W, H, t, d) keys and values of a layer
        self.position = 0

    def reorder(self, beams: Tensor) -> None:
        B, old = len(beams), self.past[0][0].shape[1]
        rows = (beams + old * torch.arange(B)[:, None]).flatten()
        self.past = [[part.flatten(0, 1)[rows].unflatten(0, beams.shape) for part in layer] for layer in self.past]

    def step(self, hidden: Tensor) -> Tensor:
        bias = self.bias[None, :, self.position, None, : self.position + 1]  # (1, H, 1, position + 1)
        for number, (layer, read) in enumerate(zip(self.layers, self.read, strict=True)):
            hidden, *self.past[number] = self.compute(layer, hidden, bias, *read, *self.past[number])
        self.position += 1
        return self.norm(hidden)


def plain_layer(
    layer: recommender.Layer,
    hidden: Tensor,
    bias: Tensor,
    read_key: Tensor,
    read_value: Tensor,
    read_bias: Tensor,
    past_key: Tensor | None,
    past_value: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One decoder position of every beam through one layer: (B, W, E) -> the same, keys and values (B, W, H, t, d)."""
    B, W, _ = hidden.shape
    own = layer.self_attention
    normed = layer.self_norm(hidden)
    key, value = (part(normed).view(B, W, own.heads, 1, own.d_kv) for part in (own.key, own.value))
    if past_key is not None and past_value is not None:
        key, value = torch.cat([past_key, key], 3), torch.cat([past_value, value], 3)
    query = own.query(normed).view(B * W, own.heads, 1, own.d_kv)
    mixed = F.scaled_dot_product_attention(query, key.flatten(0, 1), value.flatten(0, 1), attn_mask=bias, scale=1.0)
    hidden = hidden + own.out(mixed.reshape(B, W, -1))
    hidden = hidden + layer.cross(hidden, read_key, read_value, read_bias)
    return hidden + layer.feed_forward(hidden), key, value


class Search(evaluation.Row):
    """Evaluation by beam search, a row in a process of its own."""

    def __init__(self, name: str, artifacts: str | None, quick: bool, cache: str):
        self.stack = ExitStack()
        prepare_process(name, cache, self.stack)
        super().__init__(evaluation.OURS, artifacts, quick)
        if name == COMPILED:
            for layer in self.work.recommender.encoder.layers:
                layer.compile(dynamic=True)

    def first(self, masked: list[bool]) -> dict[str, float]:
        return first_round(lambda: self.round(0, masked))

    def graphs(self) -> int:
        return graphs()


def lists_differ(
    artifacts: str | None, quick: bool, cache: str, backend: str = INDUCTOR
) -> dict[str, dict[str, float]]:
    """For each way to decode but ours: the share of places with the same item, and how far scores are from ours."""
    search = Search(OURS, artifacts, quick, cache)
    (expected,), found = search.work.rank(search.ranker, 0, [False]), {}
    for name in (PLAIN, COMPILED):
        with plain_path(name == COMPILED, backend):
            (ranked,) = search.work.rank(search.ranker, 0, [False])
        same = (ranked.items == expected.items).float().mean().item()
        found[name] = {"same": same, "score": (ranked.scores - expected.scores).abs().max().item()}
    return found


def run(options: Options) -> list[Table]:
    given: dict[str, Any] = {
        "artifacts": str(options.artifacts.absolute()) if options.artifacts else None,
        "quick": options.quick,
    }
    with tempfile.TemporaryDirectory() as cache:
        return [table(**given, cache=cache) for table in (_steps, _searches, _public)]


def _steps(artifacts: str | None, quick: bool, cache: str) -> Table:
    rounds, steps = (2, 1) if quick else (3, 4)
    length, users = (3, 4) if quick else (training.LENGTHS[-1], LONG_SAMPLES)
    given: dict[str, Any] = {"artifacts": artifacts, "quick": quick, "cache": cache}
    rows = []
    with held_each(Steps, "name", ROWS, **given) as held:
        first = {name: _first(name, row, steps=steps) for name, row in held.items()}
        timings = alternate(held, rounds, before="warm", after="rest", steps=steps, log=say)
        peaks = {name: row.peak / 1e9 for name, row in held.items()}
        long = alternate(held, rounds, "step_of_length", after="rest", length=length, samples=users, log=say)
        for name, row in held.items():
            cells = _row(timings[name], timings[OURS], timings[name].results[0], first[name])
            if name == COMPILED:
                cells["graphs, other lengths"] = row.call("lengths", batches=2 if quick else AS_MANY_LENGTHS)
            rows.append(
                {"step": name, **cells, "peak GB": peaks[name], "long, CPU ms": median(long[name].cpu) / users * 1e3}
            )
    apart, _ = in_child(differences, **given)
    for cells in rows:
        cells |= {f"{what}, apart": far for what, far in apart.get(cells["step"], {}).items()}
    notes = [
        f"Profile paper, fp32, {rounds} rounds of {steps} batches of 512 samples, of short to long histories; time is "
        "per sample. Each row in a process of its own, set up as the stage joint sets itself up, one thread.",
        "first round: with all compilation, from an empty cache; CPU includes the C++ compiler. graphs: compiled in "
        f"the first round; graphs, other lengths: in {AS_MANY_LENGTHS} batches after the rounds, of all lengths, each "
        "at a temperature of its own.",
        "apart: the largest difference from ours without dropout, as a share of the loss and of the parameter's "
        "largest gradient.",
        f"long: a step on {users} histories of {length} items, CPU time per sample. peak: of the process, compilation "
        "included, before the long histories.",
    ]
    return Table("A joint training step, compiled", rows, notes)


def _searches(artifacts: str | None, quick: bool, cache: str) -> Table:
    given: dict[str, Any] = {"artifacts": artifacts, "quick": quick, "cache": cache}
    users = evaluation.BATCHES * (evaluation.QUICK_BATCH if quick else evaluation.CPU_BATCH)
    rows = []
    with held_each(Search, "name", ROWS, **given) as held:
        first = {name: _first(name, row, masked=[False]) for name, row in held.items()}
        timings = alternate(held, 2 if quick else 3, masked=[False], log=say)
        for name, row in held.items():
            cells = _row(timings[name], timings[OURS], users, first[name])
            later = row.call("graphs") - first[name]["graphs"]
            rows.append({"what": name, **cells, "graphs, later rounds": later, "peak GB": row.peak / 1e9})
    apart, _ = in_child(lists_differ, **given)
    for cells in rows:
        cells |= apart.get(cells["what"], {})
    notes = [
        "The paper's network, beam search, one list per user; time is per user. plain: keys and values of all steps in "
        "one tensor a layer, torch's attention, torch's products. same: the share of places with the same item as "
        "ours; score: the largest difference.",
    ]
    return Table("Evaluation, compiled", rows, notes)


def _public(artifacts: str | None, quick: bool, cache: str) -> Table:
    with held_each(Steps, "name", PUBLIC_ROWS, artifacts=artifacts, quick=quick, cache=cache) as held:
        first = {name: _first(name, row, steps=1) for name, row in held.items()}
        timings = alternate(held, 2 if quick else 3, after="rest", steps=1, log=say)
        rows = [
            {"step": name, **_row(timings[name], timings[PUBLIC], timings[name].results[0], first[name])}
            | {"peak GB": row.peak / 1e9}
            for name, row in held.items()
        ]
    notes = [
        "transformers' T5 blocks: histories padded to 20 items, the tokenizer run for each place, so that sizes never "
        "change and a round is one batch. Set up as a stage is, unlike in the part `training`.",
    ]
    return Table("A joint training step of public parts, compiled", rows, notes)


def _first(name: str, row: Any, **arguments: Any) -> dict[str, float]:
    found = row.call("first", **arguments)
    say(f"{name}: first round {found['wall']:.0f} s, {found['cpu']:.0f} s CPU, {found['graphs']} graphs")
    return found


def _row(timing: Timing, reference: Timing, per: int, first: dict[str, float]) -> dict[str, Any]:
    slower = ratio(timing, reference)
    return {
        **timing.cells(per),
        "CPU, times the first": slower.of_medians,
        "of a round": f"{slower.least:.2f}-{slower.most:.2f}",
        "first round, CPU s": first["cpu"],
        "first round, wall s": first["wall"],
        "graphs": first["graphs"],
    }
