"""An epoch of the teacher, compared with public parts: nn.TransformerEncoder, padded sequences, F.cross_entropy.

Shapes: B users per batch, T positions, E width, N items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed.harness import Options, Table, Timing, ratio, say
from benchmarks.speed.held import alternate, held_each
from benchmarks.speed.shapes import learning_data, params_of
from unigrec.base.process import training_device
from unigrec.config.schema import TeacherParams
from unigrec.core.models.sasrec import SASRec
from unigrec.core.sequences import Sequences, bucketed_batches
from unigrec.core.training.engine import CLIP_NORM, make_engine
from unigrec.core.training.teacher import new_teacher, next_items

OURS, BSAREC, PADDED, MASKED = "ours, SASRec", "ours, BSARec", "public parts", "public parts, logits without padding"
ROWS = (OURS, BSAREC, PADDED, MASKED)
BATCHES = {PADDED: 2, MASKED: 11}  # batches per round; other rows run the whole epoch
ROUNDS = 3
WEIGHT_AND_BIAS = ("weight", "bias")
IGNORED = -100  # a target that counts in no loss


def run(options: Options) -> list[Table]:
    artifacts = str(options.artifacts.absolute()) if options.artifacts else None
    given: dict[str, Any] = {"artifacts": artifacts, "quick": options.quick}
    rows: list[dict[str, Any]] = []
    for threads, rounds in ((1, ROUNDS), (2, 1)):  # two threads for the wall time
        with held_each(Row, "name", ROWS, threads, **given) as held:
            found = alternate(held, 1 if options.quick else rounds, log=say)
            timings = {name: scaled(timing, held[name].call("share")) for name, timing in found.items()}
            for name, row in held.items():
                row.call("longest")
                rows.append(_row(name, timings[name], timings[OURS], threads, row.peak))
            epoch, batch_size = held[OURS].call("epoch")
        say(f"teacher: {threads} threads: {ratio(timings[PADDED], timings[OURS]).of_medians:.2f} times")
    notes = [
        f"An epoch is {epoch} batches of at most {batch_size} users. Ours are whole epochs. For the public parts some "
        "batches are measured and scaled to the epoch, taken evenly from batches sorted by number of positions. Padded "
        "to one length, all batches cost the same. Without padding, the longest are left out, which favours that row.",
        "public parts: nn.TransformerEncoder with a causal mask, sequences padded to the longest history, "
        "F.cross_entropy over the catalogue's logits at every position, padding as ignore_index; AdamW with torch's "
        "defaults. The row below it drops padded positions before the logits.",
        "Without dropout both compute the same, up to rounding (a test compares the losses). With dropout, torch's "
        "layer also drops inside the feed-forward, and ours does not. Both learn item embeddings without content.",
        "BSARec has no public part. It does more work per position than the rows of public parts.",
        "Each row runs in its own process. Ours are configured as in the stage teacher. Public parts run at torch's "
        "defaults, except that denormal numbers count as zero there too.",
        "peak: peak memory of the row's process over all rounds and the longest batch of the epoch.",
    ]
    return [Table("an epoch of the teacher", rows, notes)]


def _row(name: str, timing: Timing, ours: Timing, threads: int, peak: int) -> dict[str, Any]:
    """A row with the seconds of an epoch."""
    row = {"what": name, "threads": threads, **timing.cells(unit="s")}
    if name in (PADDED, MASKED):
        slower = ratio(timing, ours)
        row |= {"CPU, times ours": slower.of_medians, "of a round": f"{slower.least:.2f}-{slower.most:.2f}"}
    return row | {"peak GB": peak / 1e9}


def scaled(timing: Timing, share: float) -> Timing:
    """The timing of whole epochs, from rounds that are a share of one."""
    return Timing([seconds / share for seconds in timing.cpu], [seconds / share for seconds in timing.wall])


class Row:
    """A row of the table, in its own process, configured as in real use: users of each round, and a trainer."""

    def __init__(self, name: str, artifacts: str | None, quick: bool):
        public = name in (PADDED, MASKED)
        if public:
            torch.set_flush_denormal(True)  # as ours: see unigrec.base.process.training_device
        else:
            training_device()
        self.sequences = learning_data(artifacts, 1, quick).sequences
        params = params_of("small").teacher
        # The public parts have no repeat bias, so no row has one.
        update = {"architecture": "bsarec" if name == BSAREC else "sasrec", "repeat_bias": False}
        self.params = params.model_copy(update=update)
        self.pieces = last_pieces(self.sequences, self.params.history)
        self.lengths = self.pieces[:, 2] + 1
        self.most = BATCHES.get(name)
        torch.manual_seed(0)
        start = new_teacher(self.sequences.catalogue_size, self.params)
        self.trainer: Ours | Theirs = Ours(start, self.params)
        if public:
            self.trainer = Theirs(start, self.params, masked=name == MASKED)

    def round(self, number: int) -> None:
        for pieces in self.measured(self.batches(number)):
            self.step(pieces)

    def longest(self) -> None:
        """Train on the longest batch of an epoch, to measure its memory."""
        self.step(self.batches(0)[-1])

    def share(self) -> float:
        """Share of the epoch's batches that a round runs."""
        batches = self.batches(0)
        return len(self.measured(batches)) / len(batches)

    def epoch(self) -> tuple[int, int]:
        """Number of batches, and maximum number of users per batch."""
        return len(self.batches(0)), self.params.batch_size

    def batches(self, number: int) -> list[np.ndarray]:
        """Pieces per batch of an epoch, batches with the fewest positions first."""
        batches = bucketed_batches(self.lengths, self.params.batch_size, 0, number)
        batches.sort(key=lambda batch: int(self.lengths[batch].sum()))
        return [self.pieces[batch] for batch in batches]

    def measured(self, batches: list[np.ndarray]) -> list[np.ndarray]:
        """The batches of a round, taken evenly from those of the epoch."""
        count = min(self.most or len(batches), len(batches))
        return [batches[int((place + 0.5) * len(batches) / count)] for place in range(count)]

    def step(self, pieces: np.ndarray) -> None:
        self.trainer.step(*self.sequences.teacher_batch(pieces))


def last_pieces(sequences: Sequences, history: int) -> np.ndarray:
    """(R, 3) as `Sequences.segments`, one piece per user: public parts read the last items of a user alone."""
    users = np.flatnonzero(sequences.train_ends - sequences.offsets[:-1] >= 2)
    ends = sequences.train_ends[users] - 1
    starts = np.maximum(sequences.offsets[users], ends - history)
    return np.stack([starts, ends, ends - starts], axis=1)


class Ours:
    """The project's model, loss and engine."""

    def __init__(self, model: SASRec, params: TeacherParams):
        self.model = model.train()
        group = {"params": list(model.parameters()), "lr": params.lr, "weight_decay": params.weight_decay}
        self.engine = make_engine("torch", model, [group], 1)

    def step(self, items: np.ndarray, lengths: np.ndarray) -> float:
        """Train on (B, T + 1) items and their lengths; returns the loss."""
        loss = next_items(self.model, torch.as_tensor(items), torch.as_tensor(lengths)).loss()
        self.engine.step(loss)
        return float(loss.detach())


class PlainSASRec(nn.Module):
    """The same teacher from torch's own layers, on sequences padded to the longest history."""

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
        """Copy the start weights."""
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
    """The obvious loop. masked: compute logits for real positions only."""

    def __init__(self, start: SASRec, params: TeacherParams, masked: bool):
        self.model = PlainSASRec(start, params).train()
        self.history, self.masked = params.history, masked
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=params.lr, weight_decay=params.weight_decay)

    def step(self, items: np.ndarray, lengths: np.ndarray) -> float:
        """Train on (B, T + 1) items and their lengths; returns the loss."""
        padding = (0, self.history + 1 - items.shape[1])
        padded, sizes = torch.as_tensor(np.pad(items, ((0, 0), padding))), torch.as_tensor(lengths)
        mask = torch.arange(self.history) < (sizes - 1)[:, None]  # (B, T)
        hidden, targets = self.model(padded[:, :-1], sizes - 1), padded[:, 1:]
        if self.masked:
            hidden, targets = hidden[mask], targets[mask]
        else:
            targets = targets.masked_fill(~mask, IGNORED).flatten()
        logits = hidden.flatten(0, -2) @ self.model.item_embedding.weight.T  # (positions, N)
        loss = F.cross_entropy(logits, targets, ignore_index=IGNORED)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        return loss.item()
