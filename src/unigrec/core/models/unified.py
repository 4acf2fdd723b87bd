"""Tokenizer, recommender and the projections between their spaces and the teacher's, as one module.

Shapes: M distinct items of the batch, B histories of n items, S = n * L tokens, at most m targets per history, P
targets in all, R identifiers to decode per target, T codes per identifier, L levels, K codewords, E d_model, C code
dimension, D item embedding dimension.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from unigrec.core.models.item_scores import ItemScores
from unigrec.core.models.linear_map import ridge_regression
from unigrec.core.models.recommender import Recommender
from unigrec.core.models.repeat_bias import RepeatBias
from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.core.models.vectors import Vectors


class JointOutput(NamedTuple):
    """The outputs that the losses need, all float32."""

    logits: list[Tensor] | ItemScores  # (P, R, size of its range) per decoder position; of a set decoder item scores
    probabilities: Tensor  # (M, L, K) soft identifiers of the distinct items
    reconstructed: Tensor | None  # (M, D); None if the tokenizer is not run
    history_log_probabilities: Tensor | None  # (P, L, K) of the encoded history; None without distillation
    teacher_log_probabilities: Tensor | None  # (P, L, K) of the teacher embedding; None without distillation
    student_state: Tensor  # (P, teacher dimension)


class UnifiedModel(nn.Module):
    """The model of the joint phase (UniGRec, arXiv 2601.17438, figure 2)."""

    def __init__(self, tokenizer: Tokenizer, recommender: Recommender, teacher_dim: int):
        super().__init__()
        code_dim, d_model = tokenizer.codebooks.shape[-1], recommender.config.d_model
        self.tokenizer = tokenizer
        self.recommender = recommender
        self.history_to_code = nn.Linear(d_model, code_dim)
        self.teacher_to_code = nn.Linear(teacher_dim, code_dim).requires_grad_(False)
        self.state_to_teacher = nn.Linear(d_model, teacher_dim)

    @torch.no_grad()
    def fit_teacher_projection(self, embeddings: Vectors, teacher: Tensor, ridge: float = 1e-2) -> None:
        """Fit the teacher's projection: ridge regression from teacher embeddings to the current latents.

        It is not trained afterwards. If it were trained together with the projection of histories, both would map
        everything to one codeword, where the distillation loss is zero.

        Args:
            embeddings: (N, D). teacher: (N, teacher dimension). ridge: as in `ridge_regression`.
        """
        fitted = ridge_regression(teacher, self.tokenizer.latents(embeddings), ridge)
        self.teacher_to_code.weight.copy_(fitted.weight)
        self.teacher_to_code.bias.copy_(fitted.bias)

    def forward(
        self,
        embeddings: Tensor,
        history: Tensor,
        lengths: Tensor,
        counts: Tensor,
        codes: Tensor,
        teacher: Tensor,
        temperature: float,
        autocast: bool = False,
        fixed: Tensor | None = None,
        distillation_temperature: float | None = None,
        identifiers: Tensor | None = None,
        items: Tensor | None = None,
    ) -> JointOutput:
        """One pass over a batch.

        Args:
            embeddings: (M, D) of the distinct items.
            history: (B, n) rows of `embeddings`, padded on the right. lengths: (B,) items per history.
            counts: (B,) targets per history: one target after each of its last `counts` items.
            codes: (P, R, T) identifiers to decode, first those of the target. Targets are in the order of histories,
                then of items.
            teacher: (P, teacher dimension), the teacher embeddings of the targets.
            autocast: run the transformer in bfloat16; the tokenizer and its softmax stay in single precision.
            fixed: (M, L, K) identifiers to use instead of the tokenizer's; the tokenizer is not run.
            distillation_temperature: temperature of the codebook assignments of history and teacher; None: no
                distillation.
            identifiers: (N, T) of the whole catalogue. items: (M,) catalogue indices of the distinct items. A
                recommender with a repeat bias needs both.
        """
        reconstructed = None
        if fixed is None:
            soft = self.tokenizer.quantize_soft(self.tokenizer.encoder(embeddings), temperature)
            fixed, reconstructed = soft.probabilities, self.tokenizer.decode(soft.quantized)
        tokens = self.recommender.item_tokens(self.recommender.embed_soft(fixed), embeddings)  # (M, L or 1, E)
        source, mask = expand_history(tokens, history, lengths)
        with torch.autocast(embeddings.device.type, torch.bfloat16, enabled=autocast):
            memory = self.recommender.encode(source, mask)
            readable, exists = readable_tokens(lengths, counts, mask, tokens_per_item=tokens.shape[1])
            output = decode_targets(self.recommender, memory, readable, exists=exists, codes=codes)  # (P, R, T, E)
            code_logits = self.recommender.all_logits(output)
        logits = student_logits(
            self.recommender,
            [scores.float() for scores in code_logits],
            history if items is None else items[history],
            lengths=lengths,
            counts=counts,
            codes=codes,
            identifiers=identifiers,
        )
        history_log_probabilities = teacher_log_probabilities = None
        if distillation_temperature is not None:
            states = memory.float()
            pooled = (readable.to(states.dtype) @ states / readable.sum(-1, keepdim=True))[exists]  # (P, E)
            latents = torch.cat([self.history_to_code(pooled), self.teacher_to_code(teacher)])
            log_probabilities = self.tokenizer.quantize_soft(latents, distillation_temperature).log_probabilities
            history_log_probabilities, teacher_log_probabilities = log_probabilities.tensor_split(2)
        return JointOutput(
            logits=logits,
            probabilities=fixed,
            reconstructed=reconstructed,
            history_log_probabilities=history_log_probabilities,
            teacher_log_probabilities=teacher_log_probabilities,
            student_state=self.state_to_teacher(output[:, 0, 0].float()),
        )


def readable_tokens(lengths: Tensor, counts: Tensor, mask: Tensor, tokens_per_item: int) -> tuple[Tensor, Tensor]:
    """Which tokens each target may read: those of the items before it.

    Args:
        lengths: (B,) items per history. counts: (B,) targets per history, one after each of its last `counts` items.
        mask: (B, S), true where a token exists.

    Returns:
        (B, m, S), true where a target may read a token; (B, m), true where a target exists.
    """
    slots = torch.arange(max(counts.tolist(), default=0), device=mask.device)
    exists = slots < counts[:, None]
    last = (lengths - counts)[:, None] + slots  # (B, m) index of the item before each target
    item = torch.arange(mask.shape[1], device=mask.device) // tokens_per_item  # (S,)
    return (item <= last[..., None]) & mask[:, None], exists


def student_logits(
    recommender: Recommender,
    logits: list[Tensor],
    history: Tensor,
    lengths: Tensor,
    counts: Tensor,
    codes: Tensor,
    identifiers: Tensor | None,
) -> list[Tensor] | ItemScores:
    """The decoder's logits, with what a repeat adds to items of the history. Of a set decoder, the scores of items.

    logits: (P, R, size of its range) per position. history: (B, n) catalogue indices. lengths, counts, codes and
    identifiers: as in `UnifiedModel.forward`.
    """
    items = bonus = None
    if recommender.repeat_bias is not None:
        items = history.repeat_interleave(counts, dim=0)
        bonus = repeat_bonus(recommender.repeat_bias, history, lengths, counts=counts)
    if recommender.config.decoder == "set":
        return ItemScores(torch.cat(logits, dim=-1).flatten(0, 1), items, bonus)
    if items is None or bonus is None:
        return logits
    assert identifiers is not None
    return [*logits[:-1], add_repeat_bonus(logits[-1], identifiers[items], bonus, decoded=codes)]


def repeat_bonus(bias: RepeatBias, history: Tensor, lengths: Tensor, counts: Tensor) -> Tensor:
    """For each target, what a repeat adds to the items of its history: (P, n).

    history: (B, n) numbers of items, equal for equal items. lengths, counts: as in `UnifiedModel.forward`.
    """
    slots = torch.arange(max(counts.tolist(), default=0), device=history.device)
    exists = slots < counts[:, None]
    return bias(history, (lengths - counts)[:, None] + slots + 1)[exists]


def add_repeat_bonus(logits: Tensor, history_codes: Tensor, values: Tensor, decoded: Tensor) -> Tensor:
    """Logits of the last code, with the bonus of those items of the history that share all codes before it.

    Args:
        logits: (P, R, K) of the last position. decoded: (P, R, T) identifiers that are decoded.
        history_codes: (P, n, T). values: (P, n), 0 where a place adds nothing.
    """
    same = (decoded[:, :, None, :-1] == history_codes[:, None, :, :-1]).all(-1)  # (P, R, n)
    code = history_codes[:, None, :, -1].expand(same.shape)
    return logits.scatter_add(2, code, torch.where(same, values[:, None], 0.0))


def decode_targets(recommender: Recommender, memory: Tensor, readable: Tensor, exists: Tensor, codes: Tensor) -> Tensor:
    """Decoder outputs (P, R, T, E) from memory (B, S, E), readable (B, m, S), exists (B, m), codes (P, R, T).

    R and T of the outputs are as `Recommender.decode` says.
    """
    padded = codes.new_zeros(exists.numel(), *codes.shape[1:])
    padded[exists.flatten()] = codes
    return recommender.decode(memory, readable, padded)[exists.flatten()]


def expand_history(tokens: Tensor, history: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Item tokens (M, L or 1, E), history (B, n) and lengths (B,) -> source (B, S, E) and mask (B, S)."""
    return tokens[history].flatten(1, 2), token_mask(lengths, history.shape[1], tokens.shape[1])


def embed_hard_history(recommender: Recommender, codes: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """As `expand_history`, from the first L codes of each item of the histories: (B, n, L). They are all it reads."""
    tokens = recommender.item_tokens(recommender.embed_codes(codes), None)
    return tokens.flatten(1, 2), token_mask(lengths, *tokens.shape[1:3])


def token_mask(lengths: Tensor, items: int, tokens_per_item: int) -> Tensor:
    """Mask (B, items * tokens_per_item), true where a token exists, from lengths (B,) in items."""
    steps = torch.arange(items, device=lengths.device)
    return (steps < lengths[:, None]).repeat_interleave(tokens_per_item, dim=1)
