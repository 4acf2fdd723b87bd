"""The teacher's training: SASRec with full-catalogue cross entropy at every position."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unigrec.data.batches import Sequences, bucketed_batches, in_chunks
from unigrec.evaluation import rank_in_scores, ranking_metrics
from unigrec.models.sasrec import SASRec
from unigrec.training.checkpoint import CheckpointFolder
from unigrec.training.engine import make_engine
from unigrec.training.loop import Log, Phase, train

if TYPE_CHECKING:
    from unigrec.config import TeacherParams

EVALUATION_BATCH = 512  # users


class Trained(NamedTuple):
    """A trained network and its curves."""

    model: torch.nn.Module
    history: list[dict[str, float]]


def new_teacher(items: int, params: TeacherParams) -> SASRec:
    """An untrained teacher of the size that params ask for."""
    return SASRec(items, params.d_model, params.blocks, params.heads, params.history, params.dropout)


def train_teacher(
    sequences: Sequences,
    params: TeacherParams,
    seed: int,
    device: torch.device,
    log: Log,
    checkpoints: CheckpointFolder | None = None,
) -> Trained:
    """Train until validation NDCG@10 (unmasked) stops rising, and keep the best weights."""
    torch.manual_seed(seed)
    model = new_teacher(sequences.catalogue_size, params).to(device)
    engine = make_engine(
        "torch", model, [{"params": list(model.parameters()), "lr": params.lr, "weight_decay": params.weight_decay}], 1
    )
    users = np.flatnonzero(sequences.train_ends - sequences.offsets[:-1] >= 2)
    lengths = np.minimum((sequences.train_ends - sequences.offsets[:-1])[users], params.history + 1)

    def losses(batch: np.ndarray, step: int) -> dict[str, Tensor]:
        items, sizes = sequences.training_batch(users[batch], params.history)
        return {"loss": next_item_loss(model, torch.as_tensor(items), torch.as_tensor(sizes), device)}

    phase = Phase(
        name="teacher",
        seed=seed,
        epochs=params.epochs,
        batches=lambda epoch: bucketed_batches(lengths, params.batch_size, seed, epoch),
        losses=losses,
        validate=lambda: validation_metrics(model, sequences, device),
        validate_every=params.validate_every,
        patience=params.patience,
    )
    history = train(phase, engine, checkpoints, log)
    return Trained(model, history)


def next_item_loss(model: SASRec, items: Tensor, lengths: Tensor, device: torch.device) -> Tensor:
    """Cross entropy over the whole catalogue at every position: items (B, T + 1) and their lengths -> scalar."""
    items, lengths = items.to(device), lengths.to(device)
    hidden = model(items[:, :-1], lengths - 1)
    there = torch.arange(items.shape[1] - 1, device=device) < (lengths - 1)[:, None]
    return F.cross_entropy(model.scores(hidden[there]), items[:, 1:][there])


@torch.no_grad()
def validation_metrics(model: SASRec, sequences: Sequences, device: torch.device) -> dict[str, float]:
    """Unmasked ranking of every user's validation item among the whole catalogue."""
    users = sequences.evaluation_users()
    ranks = []
    for chunk in in_chunks(users, EVALUATION_BATCH):
        held_out = sequences.held_out(chunk, "validation", model.history)
        scores = teacher_scores(model, held_out.items, held_out.lengths, device)
        ranks.append(rank_in_scores(scores, torch.as_tensor(held_out.targets, device=device)).cpu().numpy())
    return {f"validation_{name}": value for name, value in ranking_metrics(np.concatenate(ranks), [10]).items()}


@torch.no_grad()
def teacher_scores(model: SASRec, items: np.ndarray, lengths: np.ndarray, device: torch.device) -> Tensor:
    """(B, T), (B,) -> (B, N) scores of the item after each history."""
    model.eval()
    hidden = model.last_hidden(torch.as_tensor(items, device=device), torch.as_tensor(lengths, device=device))
    return model.scores(hidden)
