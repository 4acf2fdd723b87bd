"""The tokenizer's pre-training: reconstruction and uniformity, with falling temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unigrec.base.errors import TrainingError
from unigrec.core.identifiers.health import identifier_curve
from unigrec.core.losses import reconstruction_loss, uniformity_loss
from unigrec.core.models.tokenizers.residual import ITEMS_AT_ONCE, Tokenizer
from unigrec.core.models.vectors import Vectors
from unigrec.core.training.engine import make_engine
from unigrec.core.training.loop import Phase, Run, Trained, train
from unigrec.core.training.schedules import temperature_at

if TYPE_CHECKING:
    from unigrec.config.schema import TokenizerParams


def new_tokenizer(embedding_dim: int, params: TokenizerParams) -> Tokenizer:
    """An untrained tokenizer of the size that params ask for."""
    return Tokenizer(
        embedding_dim, params.code_dim, params.hidden, levels=params.levels, codebook_size=params.codebook_size
    )


def tokenizer_shape(params: TokenizerParams) -> dict[str, Any]:
    """What a trained tokenizer is rebuilt from, besides the width of its item vectors."""
    return params.model_dump(include={"code_dim", "hidden", "levels", "codebook_size"})


def check_size(items: int, params: TokenizerParams) -> None:
    """Raises TrainingError if there are fewer items than codewords: k-means needs an item per codeword."""
    if items < params.codebook_size:
        raise TrainingError(
            f"tokenizer.codebook_size = {params.codebook_size}, but the catalogue has {items} items; "
            f"choose at most {items}"
        )


def check_finite(embeddings: Vectors) -> None:
    """Raises TrainingError if an embedding (N, D) holds NaN or infinity."""
    finite = torch.cat([torch.isfinite(part).all(-1) for part in embeddings.split(ITEMS_AT_ONCE)])
    bad = (~finite).nonzero().flatten().tolist()
    if bad:
        raise TrainingError(
            f"tokenizer: the embeddings of {len(bad)} of {len(embeddings)} items hold NaN or infinity (the first: item "
            f"{bad[0]}); run the stage embed again, and look at the files in embed.modalities if there are any"
        )


def tokenizer_losses(
    model: Tokenizer, items: Tensor, temperature: float, uniformity_weight: float
) -> dict[str, Tensor]:
    """Losses of a batch of item embeddings (B, D): reconstruction, uniformity and `loss`, their weighted sum."""
    soft = model.quantize_soft(model.encoder(items), temperature)
    reconstruction = reconstruction_loss(model.decode(soft.quantized), items).mean()
    uniformity = uniformity_loss(soft.probabilities.mean(0))
    total = reconstruction + uniformity_weight * uniformity
    return {"loss": total, "reconstruction_loss": reconstruction, "uniformity_loss": uniformity}


def train_tokenizer(
    vectors: Vectors,
    params: TokenizerParams,
    run: Run,
    started: Tokenizer | None = None,
) -> Trained:
    """Train on the item vectors (N, D). The codebooks start from k-means over the whole catalogue.

    Row 0 of the history describes the identifiers before training, each other row those after its epoch.

    started: a trained tokenizer to continue from. Its codebooks stay, and the temperature is the last one throughout.
    """
    if started is None:
        check_size(len(vectors), params)
    check_finite(vectors)
    torch.manual_seed(run.seed)
    vectors = vectors.to(run.device)
    model = (started or new_tokenizer(vectors.shape[1], params)).to(run.device)
    if started is None:
        model.initialise(vectors, run.seed)
    group = {"params": list(model.parameters()), "lr": params.lr, "weight_decay": params.weight_decay}
    engine = make_engine("torch", model, [group], batch_size=params.batch_size)
    batches = -(-len(vectors) // params.batch_size)
    steps = batches * params.epochs

    def temperature(step: int) -> float:
        first = params.temperature_start if started is None else params.temperature_end
        return temperature_at(min(step / max(steps - 1, 1), 1.0), first, params.temperature_end)

    def losses(batch: np.ndarray, step: int) -> dict[str, Tensor]:
        items = vectors[torch.as_tensor(batch, device=run.device)]
        return tokenizer_losses(model, items, temperature(step), uniformity_weight=params.uniformity_weight)

    def identifiers(step: int) -> dict[str, float]:
        return {"temperature": temperature(step)} | identifier_curve(model, vectors, temperature(step))

    def shuffled(epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng([run.seed, epoch]).permutation(len(vectors))
        return np.array_split(order, batches)

    untrained = {"epoch": 0, "step": 0} | identifiers(0)  # before `train` loads a checkpoint: the same after a restart
    phase = Phase(
        name="tokenizer",
        epochs=params.epochs,
        batches=shuffled,
        losses=losses,
        end_epoch=lambda epoch: identifiers((epoch + 1) * batches),
    )
    trained = train(phase, engine, run)
    return Trained(model, [untrained, *trained.history], kept=trained.kept or untrained)
