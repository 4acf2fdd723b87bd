"""The tokenizer's pre-training: reconstruction and uniformity, with falling temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unigrec.errors import TrainingError
from unigrec.identifiers import identifier_curve
from unigrec.losses import reconstruction_loss, uniformity_loss
from unigrec.models.tokenizer import Tokenizer
from unigrec.training.checkpoint import CheckpointFolder
from unigrec.training.engine import make_engine
from unigrec.training.loop import Log, Phase, train
from unigrec.training.teacher import Trained

if TYPE_CHECKING:
    from unigrec.config import TokenizerParams


def new_tokenizer(embedding_dim: int, params: TokenizerParams) -> Tokenizer:
    """An untrained tokenizer of the size that params ask for."""
    return Tokenizer(embedding_dim, params.code_dim, params.hidden, params.levels, params.codebook_size)


def item_vectors(content: Tensor, teacher: Tensor, weight: float) -> Tensor:
    """What the tokenizer reads of each item: its content, and beside it what the teacher makes of it.

    Items that are bought alike then share codes, not only those that are described alike. The published tokenizer reads
    content alone; reading collaborative embeddings is the way of ETEGRec (arXiv 2409.05546).

    Args:
        content: (N, D) item embeddings. teacher: (N, E) the teacher's. weight: of the teacher's part: it is centred and
            scaled so that its total variance is `weight` squared times that of the content.

    Returns:
        (N, D + E), or the content itself where the weight is 0.
    """
    if weight == 0.0:
        return content
    centred = teacher - teacher.mean(0)
    scale = content.var(0).sum() / centred.var(0).sum().clamp_min(1e-12)
    return torch.cat([content, weight * scale.sqrt() * centred], dim=1)


def check_size(items: int, params: TokenizerParams) -> None:
    """Raises TrainingError when there are fewer items than codewords: k-means has nothing to place them on."""
    if items < params.codebook_size:
        raise TrainingError(
            f"tokenizer.codebook_size = {params.codebook_size}, but the catalogue has {items} items; "
            f"choose at most {items}"
        )


def check_finite(embeddings: Tensor) -> None:
    """Raises TrainingError when an item's embedding (N, D) holds NaN or infinity."""
    bad = (~torch.isfinite(embeddings).all(-1)).nonzero().flatten().tolist()
    if bad:
        raise TrainingError(
            f"tokenizer: the embeddings of {len(bad)} of {len(embeddings)} items hold NaN or infinity (the first: item "
            f"{bad[0]}); run the stage embed again, and look at the files in embed.modalities if there are any"
        )


def temperature_at(done: float, params: TokenizerParams) -> float:
    """Linear from start to end over the run. done: share of all steps, in [0, 1]."""
    return params.temperature_start + (params.temperature_end - params.temperature_start) * done


def tokenizer_losses(
    model: Tokenizer, items: Tensor, temperature: float, uniformity_weight: float
) -> dict[str, Tensor]:
    """Reconstruction and uniformity of a batch of item embeddings (B, D), and as `loss` what is minimised."""
    soft = model.quantize_soft(model.encoder(items), temperature)
    reconstruction = reconstruction_loss(model.decode(soft.quantized), items).mean()
    uniformity = uniformity_loss(soft.probabilities.mean(0))
    total = reconstruction + uniformity_weight * uniformity
    return {"loss": total, "reconstruction_loss": reconstruction, "uniformity_loss": uniformity}


def train_tokenizer(
    embeddings: Tensor,
    params: TokenizerParams,
    seed: int,
    device: torch.device,
    log: Log,
    checkpoints: CheckpointFolder | None = None,
) -> Trained:
    """Train on the item embeddings (N, D). Codebooks start from k-means over the whole catalogue.

    The history's row of epoch 0 tells the identifiers of those first codebooks, every other row those after its epoch.
    """
    check_size(len(embeddings), params)
    check_finite(embeddings)
    torch.manual_seed(seed)
    embeddings = embeddings.to(device)
    model = new_tokenizer(embeddings.shape[1], params).to(device)
    model.initialise(embeddings, seed)
    engine = make_engine(
        "torch", model, [{"params": list(model.parameters()), "lr": params.lr, "weight_decay": params.weight_decay}], 1
    )
    batches = -(-len(embeddings) // params.batch_size)
    steps = batches * params.epochs

    def losses(batch: np.ndarray, step: int) -> dict[str, Tensor]:
        items = embeddings[torch.as_tensor(batch, device=device)]
        temperature = temperature_at(step / max(steps - 1, 1), params)
        return tokenizer_losses(model, items, temperature, params.uniformity_weight)

    def identifiers(step: int) -> dict[str, float]:
        temperature = temperature_at(min(step / max(steps - 1, 1), 1.0), params)
        return {"temperature": temperature} | identifier_curve(model, embeddings, temperature)

    def shuffled(epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng([seed, epoch]).permutation(len(embeddings))
        return np.array_split(order, batches)

    untrained = {"epoch": 0, "step": 0} | identifiers(0)  # before a checkpoint is read: the same after a restart
    phase = Phase(
        "tokenizer",
        seed,
        params.epochs,
        shuffled,
        losses,
        end_epoch=lambda epoch: identifiers((epoch + 1) * batches),
    )
    history = train(phase, engine, checkpoints, log)
    return Trained(model, [untrained, *history])
