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


class Asked(NamedTuple):
    """Histories, and what is decoded after them: targets in the order of histories, then of items."""

    history: Tensor  # (B, n) rows of the distinct items, padded on the right
    lengths: Tensor  # (B,) items per history
    counts: Tensor  # (B,) targets per history: one target after each of its last `counts` items
    codes: Tensor  # (P, R, T) identifiers to decode, first those of the target
    items: Tensor  # (M,) catalogue indices of the distinct items
    identifiers: Tensor  # (N, T) of the whole catalogue


class Answer(NamedTuple):
    """What the recommender says to what is `Asked`."""

    memory: Tensor  # (B, S, E) of the encoder
    readable: Tensor  # (B, m, S), true where a target may read a token
    exists: Tensor  # (B, m), true where a target exists
    output: Tensor  # (P, R, T, E) of the decoder
    logits: list[Tensor] | ItemScores  # as in `JointOutput`


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
        asked: Asked,
        teacher: Tensor,
        temperature: float,
        autocast: bool = False,
        fixed: Tensor | None = None,
        distillation_temperature: float | None = None,
    ) -> JointOutput:
        """One pass over a batch.

        Args:
            embeddings: (M, D) of the distinct items.
            teacher: (P, teacher dimension), the teacher embeddings of the targets.
            autocast: run the transformer in bfloat16; the tokenizer and its softmax stay in single precision.
            fixed: (M, L, K) identifiers to use instead of the tokenizer's; the tokenizer is not run.
            distillation_temperature: temperature of the codebook assignments of history and teacher; None: no
                distillation.
        """
        reconstructed = None
        if fixed is None:
            soft = self.tokenizer.quantize_soft(self.tokenizer.encoder(embeddings), temperature)
            fixed, reconstructed = soft.probabilities, self.tokenizer.decode(soft.quantized)
        tokens = self.recommender.item_tokens(self.recommender.embed_soft(fixed), embeddings)  # (M, L or 1, E)
        answer = answered(self.recommender, tokens, asked, autocast)
        history_log_probabilities = teacher_log_probabilities = None
        if distillation_temperature is not None:
            states, readable = answer.memory.float(), answer.readable
            pooled = (readable.to(states.dtype) @ states / readable.sum(-1, keepdim=True))[answer.exists]  # (P, E)
            latents = torch.cat([self.history_to_code(pooled), self.teacher_to_code(teacher)])
            log_probabilities = self.tokenizer.quantize_soft(latents, distillation_temperature).log_probabilities
            history_log_probabilities, teacher_log_probabilities = log_probabilities.tensor_split(2)
        return JointOutput(
            logits=answer.logits,
            probabilities=fixed,
            reconstructed=reconstructed,
            history_log_probabilities=history_log_probabilities,
            teacher_log_probabilities=teacher_log_probabilities,
            student_state=self.state_to_teacher(answer.output[:, 0, 0].float()),
        )


def answered(recommender: Recommender, tokens: Tensor, asked: Asked, autocast: bool = False) -> Answer:
    """Encode the histories and decode what is asked.

    tokens: (M, L or 1, E) of the distinct items. autocast: run the transformer in bfloat16.
    """
    source, mask = expand_history(tokens, asked.history, asked.lengths)
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=autocast):
        memory = recommender.encode(source, mask)
        readable, exists = readable_tokens(asked, mask, tokens_per_item=tokens.shape[1])
        output = decode_targets(recommender, memory, readable, exists=exists, codes=asked.codes)
        code_logits = recommender.all_logits(output)
    logits = student_logits(recommender, [scores.float() for scores in code_logits], asked)
    return Answer(memory, readable, exists, output, logits)


def target_places(asked: Asked) -> tuple[Tensor, Tensor]:
    """(B, m) place in the history of the item before each target; (B, m), true where a target exists."""
    slots = torch.arange(max(asked.counts.tolist(), default=0), device=asked.counts.device)
    return (asked.lengths - asked.counts)[:, None] + slots, slots < asked.counts[:, None]


def readable_tokens(asked: Asked, mask: Tensor, tokens_per_item: int) -> tuple[Tensor, Tensor]:
    """`readable` and `exists` of an `Answer`: a target may read the items before it. mask: (B, S) existing tokens."""
    last, exists = target_places(asked)
    item = torch.arange(mask.shape[1], device=mask.device) // tokens_per_item  # (S,)
    return (item <= last[..., None]) & mask[:, None], exists


def student_logits(recommender: Recommender, logits: list[Tensor], asked: Asked) -> list[Tensor] | ItemScores:
    """The decoder's logits, with what a repeat adds to items of the history. Of a set decoder, the scores of items.

    logits: (P, R, size of its range) per position.
    """
    items = bonus = None
    if recommender.repeat_bias is not None:
        items = asked.items[asked.history].repeat_interleave(asked.counts, dim=0)
        bonus = repeat_bonus(recommender.repeat_bias, asked)
    if recommender.config.decoder == "set":
        return ItemScores(torch.cat(logits, dim=-1).flatten(0, 1), items, bonus)
    if items is None or bonus is None:
        return logits
    return [*logits[:-1], add_repeat_bonus(logits[-1], asked.identifiers[items], bonus, decoded=asked.codes)]


def repeat_bonus(bias: RepeatBias, asked: Asked) -> Tensor:
    """For each target, what a repeat adds to the items of its history: (P, n)."""
    last, exists = target_places(asked)
    return bias(asked.items[asked.history], last + 1)[exists]


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
