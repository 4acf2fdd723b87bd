"""Training steps of the teacher, against public parts: nn.TransformerEncoder, padded sequences, F.cross_entropy.

Shapes: B users of a batch, T positions, E width, N items.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed.harness import Options, Table, Timing, Usage, alternate, in_child, ratio, say
from benchmarks.speed.shapes import learning_data, params_of
from unigrec.config import TeacherParams
from unigrec.data.batches import bucketed_batches
from unigrec.models.sasrec import SASRec
from unigrec.training.engine import CLIP_NORM, make_engine
from unigrec.training.teacher import new_teacher, next_item_loss

BATCHES = 3  # of a round: short, middling and long ones of an epoch
WEIGHT_AND_BIAS = ("weight", "bias")
IGNORED = -100  # as a target
ROUNDS, QUICK_ROUNDS = 3, 1
OURS, BSAREC, PADDED, MASKED = "ours, SASRec", "ours, BSARec", "public parts", "public parts, logits without padding"


def run(options: Options) -> list[Table]:
    artifacts = str(options.artifacts.absolute()) if options.artifacts else None
    given: dict[str, Any] = {"artifacts": artifacts, "quick": options.quick}
    peaks = {name: in_child(peak_of, name=name, **given)[1] for name in (OURS, BSAREC, PADDED, MASKED)}
    rows: list[dict[str, Any]] = []
    for threads in (1, 2):
        found, _ = in_child(measure, threads, **given)
        timings = {name: Timing(**seconds) for name, seconds in found["timings"].items()}
        for name, timing in timings.items():
            rows.append(_row(name, timing, timings[OURS], found, threads, peaks[name]))
        say(f"teacher: {threads} threads: {ratio(timings[PADDED], timings[OURS]).of_medians:.2f} times")
    notes = [
        f"An epoch is {found['epoch']} batches of at most {found['batch_size']} users. A round is {found['batches']} "
        "of them, taken evenly in order of length, the same users in all rows; seconds are scaled to the epoch.",
        "public parts: nn.TransformerEncoder with a causal mask, sequences padded to the longest history, "
        "F.cross_entropy over the catalogue's logits at every position, padding as ignore_index; AdamW as torch has it "
        "by default. The row below it leaves padded positions out before the logits.",
        "Without dropout both compute the same, to rounding (a test compares the losses). With it, torch's layer also "
        "drops inside the feed-forward, and ours does not. Item embeddings are free in both, without content.",
        "BSARec has no public part; it does more for each position than the rows of public parts.",
        "peak: of a process that does the round's longest batch, once.",
    ]
    return [Table("an epoch of the teacher", rows, notes)]


def _row(name: str, timing: Timing, ours: Timing, found: dict[str, Any], threads: int, peak: Usage) -> dict[str, Any]:
    """A row for a whole epoch, by the share of it that was measured."""
    row = {"what": name, "threads": threads, **timing.cells(found["batches"] / found["epoch"], "s")}
    if name in (PADDED, MASKED):
        slower = ratio(timing, ours)
        row |= {"CPU, times ours": slower.of_medians, "of a round": f"{slower.least:.2f}-{slower.most:.2f}"}
    return row | {"peak GB": peak.peak / 1e9}


def measure(artifacts: str | None, quick: bool) -> dict[str, Any]:
    """Seconds of rounds, each name in turn over the same users; in a process of its own."""
    work = _Work(artifacts, quick)
    trainers = {name: work.trainer(name) for name in (OURS, BSAREC, PADDED, MASKED)}
    rounds = QUICK_ROUNDS if quick else ROUNDS

    def steps(name: str, number: int) -> None:
        for users in work.batches(number):
            trainers[name].step(*work.sequences.training_batch(users, work.params.history))

    calls = {name: (lambda number, name=name: steps(name, number)) for name in trainers}
    timings = alternate(calls, rounds, log=say)
    return {
        "epoch": work.epoch,
        "batch_size": work.params.batch_size,
        "batches": len(work.batches(0)),
        "timings": {name: asdict(timing) for name, timing in timings.items()},
    }


def peak_of(name: str, artifacts: str | None, quick: bool) -> float:
    """One step on the longest batch of a round; its process's peak is what is asked for."""
    work = _Work(artifacts, quick)
    longest = work.batches(0)[-1]
    return work.trainer(name).step(*work.sequences.training_batch(longest, work.params.history))


class _Work:
    """The users of each round, and a trainer for each row of the table."""

    def __init__(self, artifacts: str | None, quick: bool):
        torch.set_flush_denormal(True)  # for all rows: see unigrec.stages.training_device
        self.sequences = learning_data(artifacts, 1, quick).sequences
        self.params = params_of("small").teacher
        ends = self.sequences.train_ends - self.sequences.offsets[:-1]
        self.users = np.flatnonzero(ends >= 2)
        self.lengths = np.minimum(ends[self.users], self.params.history + 1)
        self.epoch = len(self.epoch_batches(0))

    def epoch_batches(self, epoch: int) -> list[np.ndarray]:
        return bucketed_batches(self.lengths, self.params.batch_size, 0, epoch)

    def batches(self, number: int) -> list[np.ndarray]:
        """Users of a round: batches taken evenly from an epoch's, shortest first."""
        batches = sorted(self.epoch_batches(number), key=lambda batch: int(self.lengths[batch].max()))
        count = min(BATCHES, len(batches))
        return [self.users[batches[int((place + 0.5) * len(batches) / count)]] for place in range(count)]

    def trainer(self, name: str) -> Ours | Theirs:
        items = self.sequences.catalogue_size
        torch.manual_seed(0)
        if name in (PADDED, MASKED):
            return Theirs(new_teacher(items, self.params), self.params, masked=name == MASKED)
        architecture = "bsarec" if name == BSAREC else "sasrec"
        params = self.params.model_copy(update={"architecture": architecture})
        return Ours(new_teacher(items, params), params)


class Ours:
    """The project's model, loss and engine."""

    def __init__(self, model: SASRec, params: TeacherParams):
        self.model = model.train()
        group = {"params": list(model.parameters()), "lr": params.lr, "weight_decay": params.weight_decay}
        self.engine = make_engine("torch", model, [group], 1)

    def step(self, items: np.ndarray, lengths: np.ndarray) -> float:
        """Train on (B, T + 1) items and their lengths; returns the loss."""
        loss = next_item_loss(self.model, torch.as_tensor(items), torch.as_tensor(lengths))
        self.engine.step(loss)
        return float(loss.detach())


class PlainSASRec(nn.Module):
    """The same teacher of torch's own layers, on sequences that are padded to the longest history."""

    def __init__(self, start: SASRec, params: TeacherParams):
        super().__init__()
        width = params.d_model
        self.history = params.history
        self.item_embedding = nn.Embedding(start.item_embedding.num_embeddings, width)
        self.position_embedding = nn.Embedding(params.history, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(params.dropout)
        layer = nn.TransformerEncoderLayer(
            width, params.heads, 4 * width, params.dropout, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, params.blocks)
        self.copy(start)

    def copy(self, start: SASRec) -> None:
        """Start from the same weights."""
        for name in ("item_embedding", "position_embedding", "norm"):
            getattr(self, name).load_state_dict(getattr(start, name).state_dict())
        for layer, block in zip(self.encoder.layers, start.blocks, strict=True):
            pairs = {
                "self_attn.in_proj_weight": "qkv.weight",
                "self_attn.in_proj_bias": "qkv.bias",
                "self_attn.out_proj.weight": "out.weight",
                "self_attn.out_proj.bias": "out.bias",
                **{
                    f"linear{n}.{part}": f"feed_forward.{2 * (n - 1)}.{part}"
                    for n in (1, 2)
                    for part in WEIGHT_AND_BIAS
                },
                **{f"norm1.{part}": f"attention_norm.{part}" for part in WEIGHT_AND_BIAS},
                **{f"norm2.{part}": f"feed_forward_norm.{part}" for part in WEIGHT_AND_BIAS},
            }
            weights = block.state_dict()
            layer.load_state_dict({theirs: weights[ours] for theirs, ours in pairs.items()})

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """items (B, T) padded on the right, lengths (B,) -> (B, T, E). Causality hides the padding."""
        steps = torch.arange(items.shape[1])
        positions = (self.history - lengths[:, None] + steps).clamp(max=self.history - 1)
        hidden = self.dropout(self.norm(self.item_embedding(items) + self.position_embedding(positions)))
        mask = nn.Transformer.generate_square_subsequent_mask(items.shape[1])
        return self.encoder(hidden, mask=mask, is_causal=True)


class Theirs:
    """The obvious loop. masked: only real positions get logits."""

    def __init__(self, start: SASRec, params: TeacherParams, masked: bool):
        self.model = PlainSASRec(start, params).train()
        self.history, self.masked = params.history, masked
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=params.lr, weight_decay=params.weight_decay)

    def step(self, items: np.ndarray, lengths: np.ndarray) -> float:
        """Train on (B, T + 1) items and their lengths; returns the loss."""
        padded = np.pad(items, ((0, 0), (0, self.history + 1 - items.shape[1])))
        given, sizes = torch.as_tensor(padded), torch.as_tensor(lengths)
        there = torch.arange(self.history) < (sizes - 1)[:, None]  # (B, T)
        hidden, targets = self.model(given[:, :-1], sizes - 1), given[:, 1:]
        if self.masked:
            hidden, targets = hidden[there], targets[there]
        else:
            targets = targets.masked_fill(~there, IGNORED).flatten()
        logits = hidden.flatten(0, -2) @ self.model.item_embedding.weight.T  # (positions, N)
        loss = F.cross_entropy(logits, targets, ignore_index=IGNORED)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        return loss.item()
