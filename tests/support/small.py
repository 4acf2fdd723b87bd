"""Small networks and sequences for many tests: seeded, in evaluation mode, fast."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import settings

from unigrec.core.models.recommender import Recommender, RecommenderConfig
from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.core.sequences import Sequences

few = settings(max_examples=20, deadline=None, derandomize=True)


def small_recommender(
    levels: int = 3, codebook_size: int = 4, disambiguation: int = 0, seed: int = 0, **changes: Any
) -> Recommender:
    """A recommender with two encoder and two decoder layers, width 12, 3 heads of width 4."""
    torch.manual_seed(seed)
    shape = {"d_model": 12, "d_ff": 20, "heads": 3, "d_kv": 4, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.1}
    config = RecommenderConfig(
        **(shape | changes), levels=levels, codebook_size=codebook_size, disambiguation=disambiguation
    )
    return Recommender(config).eval()


def small_tokenizer(
    embedding_dim: int = 6, code_dim: int = 4, levels: int = 3, codebook_size: int = 4, seed: int = 0
) -> Tokenizer:
    torch.manual_seed(seed)
    return Tokenizer(embedding_dim, code_dim, [8], levels, codebook_size).eval()


def plain_tokenizer(codebooks: torch.Tensor) -> Tokenizer:
    """A tokenizer whose encoder and decoder are the identity: latents equal embeddings. codebooks: (L, K, C)."""
    levels, size, dim = codebooks.shape
    tokenizer = Tokenizer(dim, dim, [], levels, size)
    tokenizer.encoder, tokenizer.decoder = torch.nn.Sequential(), torch.nn.Sequential()
    tokenizer.codebooks.data = codebooks.clone()
    return tokenizer


def sequences_of(*users: list[int], items: int) -> Sequences:
    """Sequences of the given users, items in time order."""
    return Sequences(
        np.array([item for user in users for item in user], np.int64),
        np.cumsum([0, *(len(user) for user in users)]),
        items,
    )


def random_sequences(users: int, items: int, longest: int, seed: int = 0) -> Sequences:
    """Sequences of users with 1 .. longest interactions. Items may repeat."""
    generator = np.random.default_rng(seed)
    return sequences_of(
        *(list(generator.integers(0, items, generator.integers(1, longest + 1))) for _ in range(users)), items=items
    )


def padded(lengths: list[int], width: int) -> torch.Tensor:
    """(B, width) mask, true for the first `lengths` positions."""
    return torch.arange(width) < torch.tensor(lengths)[:, None]
