"""How good the student is right now: beam search for sampled validation users, unmasked."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unigrec.core.evaluation.metrics import rank_in_list, validation_figures
from unigrec.core.models.recommender import Recommender
from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.core.models.vectors import Vectors
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.retrieval.prefix_tree import PrefixTree
from unigrec.core.sequences import Sequences, sample

ITEMS_AT_ONCE = 2**14  # whose tokens are made together


@torch.no_grad()
def soft_tokens(tokenizer: Tokenizer, recommender: Recommender, embeddings: Vectors, temperature: float) -> Tensor:
    """Input tokens of every item from its soft identifier: (N, D) -> (N, L or 1, E)."""
    read = []
    for part in embeddings.split(ITEMS_AT_ONCE):
        soft = tokenizer.quantize_soft(tokenizer.encoder(part), temperature)
        read.append(recommender.item_tokens(recommender.embed_soft(soft.probabilities), part))
    return torch.cat(read)


@torch.no_grad()
def hard_tokens(recommender: Recommender, codes: Tensor, vectors: Vectors | None = None) -> Tensor:
    """Input tokens of every item, (N, L or 1, E), from its first L codes (N, T).

    vectors: (N, vector_width); None for a recommender that reads codes alone.
    """
    read = []
    for start in range(0, len(codes), ITEMS_AT_ONCE):
        rows = slice(start, start + ITEMS_AT_ONCE)
        tokens = recommender.embed_codes(codes[rows, : recommender.config.levels])
        read.append(recommender.item_tokens(tokens, None if vectors is None else vectors[rows]))
    return torch.cat(read)


def sampled_users(sequences: Sequences, count: int, seed: int) -> np.ndarray:
    """At most `count` users with a validation item, the same ones for the same seed."""
    return sample(sequences.evaluation_users(), count, seed)


@torch.no_grad()
def beam_metrics(
    recommender: Recommender,
    tokens: Tensor,
    tree: PrefixTree,
    sequences: Sequences,
    users: np.ndarray,
    history: int,
    beam: int,
) -> dict[str, float]:
    """As `validation_figures`. tokens: (N, L or 1, E) input tokens of every item."""
    retriever = GenerativeRetriever(recommender.eval(), tree, tokens, history=history, beam=beam)
    ranks = []
    for rows in retriever.batches(sequences.lengths[users]):
        held_out = sequences.held_out(users[rows], "validation", history)
        (found,) = retriever.search(held_out.items, held_out.lengths)
        targets = torch.as_tensor(held_out.targets, device=tokens.device)
        ranks.append(rank_in_list(found.items, targets).cpu().numpy())
    return validation_figures(np.concatenate(ranks))
