"""An epoch of the tokenizer's pre-training, compared with the obvious loop: DataLoader, the same losses, AdamW.

Shapes: B items per batch, N items, D embedding dimensions, L levels, K codewords, C code dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.speed.harness import Options, Table, ratio, say
from benchmarks.speed.held import alternate, held_each
from benchmarks.speed.shapes import learning_data, params_of
from unigrec.base.process import training_device
from unigrec.config.schema import TokenizerParams
from unigrec.core.identifiers.health import identifier_curve
from unigrec.core.losses import uniformity_loss
from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.core.training.engine import CLIP_NORM, make_engine
from unigrec.core.training.loop import Phase, Run, train
from unigrec.core.training.tokenizer import new_tokenizer, tokenizer_losses

WIDTH = 768  # of embeddings, as from the sentence encoder of the published method
TEMPERATURE = 0.005  # constant: its schedule costs no time
PROFILES = ("paper", "small")
OURS, THEIRS, IDENTIFIERS = ROWS = ("ours", "DataLoader", "identifiers")
ROUNDS, QUICK_ROUNDS = 5, 1


def run(options: Options) -> list[Table]:
    artifacts = str(options.artifacts.absolute()) if options.artifacts else None
    rows: list[dict[str, Any]] = []
    given: dict[str, Any] = {"artifacts": artifacts, "quick": options.quick}
    for profile in PROFILES:
        for threads in (1, 2):
            with held_each(Row, "name", ROWS, threads, profile=profile, **given) as held:
                timings = alternate(held, QUICK_ROUNDS if options.quick else ROUNDS, log=say)
                items, width = held[OURS].call("shape")
                peak = held[OURS].peak
            faster = ratio(timings[THEIRS], timings[OURS])
            for name, timing in timings.items():
                row = {"profile": profile, "what": name, "items": items, "D": width}
                row |= {"threads": threads, **timing.cells(unit="s")}
                if name == THEIRS:
                    row |= {"CPU, times ours": faster.of_medians, "of a round": f"{faster.least:.2f}-{faster.most:.2f}"}
                rows.append(row)
            say(f"tokenizer: {profile}, {threads} threads: {faster.of_medians:.2f} times; ours {peak / 1e9:.2f} GB")
    notes = [
        "An epoch: forward, backward, clipping, AdamW; the same items in the same order, from the same weights.",
        "DataLoader: torch.cdist for the distances, AdamW with torch's defaults, losses read with .item().",
        "identifiers: what our training adds per epoch: curves of collisions, entropy, and soft-hard disagreement.",
        "Each row runs in its own process. Ours are configured as in the stage tokenizer. DataLoader runs at torch's "
        "defaults, except that denormal numbers count as zero there too.",
    ]
    return [Table("an epoch of the tokenizer", rows, notes)]


class Row:
    """A row of the table, in its own process, configured as in real use."""

    def __init__(self, name: str, profile: str, artifacts: str | None, quick: bool):
        if name == THEIRS:
            torch.set_flush_denormal(True)  # as ours: see unigrec.base.process.training_device
        else:
            training_device()
        params = params_of(profile).tokenizer
        self.embeddings = learning_data(artifacts, WIDTH, quick).embeddings
        params = params.model_copy(update={"codebook_size": min(params.codebook_size, len(self.embeddings) // 2)})
        start = started_tokenizer(self.embeddings, params)
        self.work: Callable[[int], Any] = lambda number: identifier_curve(start, self.embeddings, TEMPERATURE)
        if name != IDENTIFIERS:
            self.work = (Theirs if name == THEIRS else Ours)(start, self.embeddings, params).epoch

    def round(self, number: int) -> None:
        self.work(number)

    def shape(self) -> list[int]:
        """Number of items and of embedding dimensions."""
        return list(self.embeddings.shape)


def started_tokenizer(embeddings: Tensor, params: TokenizerParams) -> Tokenizer:
    """A tokenizer as training starts it: k-means codebooks on the catalogue."""
    torch.manual_seed(0)
    model = new_tokenizer(embeddings.shape[1], params)
    model.initialise(embeddings, 0, iterations=5)
    return model


def order_of(epoch: int, items: int) -> np.ndarray:
    return np.random.default_rng([0, epoch]).permutation(items)


class Ours:
    """The project's loop, engine and losses."""

    def __init__(self, start: Tokenizer, embeddings: Tensor, params: TokenizerParams):
        self.model = new_tokenizer(embeddings.shape[1], params)
        self.model.load_state_dict(start.state_dict())
        self.embeddings, self.params = embeddings, params
        group = {"params": list(self.model.parameters()), "lr": params.lr, "weight_decay": params.weight_decay}
        self.engine = make_engine("torch", self.model, [group], 1)

    def epoch(self, number: int) -> float:
        """Train for an epoch; returns its mean loss."""
        batches = -(-len(self.embeddings) // self.params.batch_size)
        pieces = np.array_split(order_of(number, len(self.embeddings)), batches)

        def losses(batch: np.ndarray, step: int) -> dict[str, Tensor]:
            items = self.embeddings[torch.as_tensor(batch)]
            return tokenizer_losses(self.model, items, TEMPERATURE, self.params.uniformity_weight)

        phase = Phase("tokenizer", 1, lambda epoch: pieces, losses=losses)
        run = Run(0, torch.device("cpu"), lambda step, metrics: None)
        return train(phase, self.engine, run).kept["loss"]


class Plain(nn.Module):
    """The same tokenizer from torch's own parts: linear layers; a distance, a softmax and a matmul per level."""

    def __init__(self, start: Tokenizer, width: int, params: TokenizerParams):
        super().__init__()
        widths = [width, *params.hidden, params.code_dim]
        self.encoder, self.decoder = stack(widths), stack(widths[::-1])
        self.codebooks = nn.Parameter(torch.empty(params.levels, params.codebook_size, params.code_dim))
        self.load_state_dict(start.state_dict())

    def forward(self, items: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, D) reconstructed, (B, L, K) soft identifiers."""
        residual, probabilities = self.encoder(items), []
        quantized = torch.zeros_like(residual)
        for codebook in self.codebooks:
            distances = torch.cdist(residual, codebook).square()  # (B, K)
            probabilities.append(F.softmax(-distances / temperature, dim=-1))
            soft_codeword = probabilities[-1] @ codebook
            residual = residual - soft_codeword
            quantized = quantized + soft_codeword
        return self.decoder(quantized), torch.stack(probabilities, dim=1)


def stack(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Theirs:
    """The obvious loop."""

    def __init__(self, start: Tokenizer, embeddings: Tensor, params: TokenizerParams):
        self.model = Plain(start, embeddings.shape[1], params)
        self.dataset, self.params = TensorDataset(embeddings), params
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=params.lr, weight_decay=params.weight_decay)

    def epoch(self, number: int) -> float:
        """Train for an epoch; returns its mean loss."""
        order = order_of(number, len(self.dataset)).tolist()
        loader = DataLoader(self.dataset, batch_size=self.params.batch_size, sampler=order)
        losses = []
        for (items,) in loader:
            reconstructed, probabilities = self.model(items, TEMPERATURE)
            uniformity = uniformity_loss(probabilities.mean(0))
            loss = F.mse_loss(reconstructed, items) + self.params.uniformity_weight * uniformity
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
            self.optimizer.step()
            losses.append(loss.item())
        return sum(losses) / len(losses)
