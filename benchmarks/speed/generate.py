"""Evaluation from public parts: `generate` of transformers' T5 with our weights and our constraint.

Shapes: B users per batch, W beams, T codes per identifier, N items.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PrefixConstrainedLogitsProcessor,
    T5ForConditionalGeneration,
)

from benchmarks.speed.t5 import stack_pairs, t5_config
from unigrec.core.evaluation.metrics import seen_before
from unigrec.core.models.recommender import START, Recommender
from unigrec.core.retrieval.beam import BeamResult
from unigrec.core.sequences import Sequences


class LevelLogProbabilities(LogitsProcessor):
    """Renormalises scores over the whole vocabulary to log-probabilities over the codes of the next level."""

    def __init__(self, offsets: list[int]):
        self.ranges = list(pairwise(offsets))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        low, high = self.ranges[input_ids.shape[1] - 1]
        return scores - scores[:, low:high].logsumexp(-1, keepdim=True)


class Generate:
    """T5 with the same weights, and `generate` with beams restricted to existing prefixes.

    Attributes:
        at_once: users ranked together: of 8, 16, 32 and 64 the number with the least CPU time per user. With memory
            kept, 32 and 64 take 3 % less time than 16, but more memory.
    """

    at_once = 16

    def __init__(self, recommender: Recommender, codes: np.ndarray, beam: int):
        self.model, self.beam, self.offsets = t5_of(recommender), beam, recommender.offsets
        self.rows = codes + np.array(self.offsets[: codes.shape[1]])  # (N, T) token ids
        self.levels = recommender.config.levels
        self.item_of = {tuple(row): item for item, row in enumerate(self.rows.tolist())}
        self.items_under: Counter[tuple] = Counter()
        self.following: dict[tuple, list[int]] = {}
        for row in self.item_of:
            for depth in range(len(row)):
                if not self.items_under[row[: depth + 1]]:
                    self.following.setdefault(row[:depth], []).append(row[depth])
                self.items_under[row[: depth + 1]] += 1

    def rank(self, sequences: Sequences, users: np.ndarray, history: int, masked: list[bool]) -> list[BeamResult]:
        seen = seen_before(sequences, users, "test").tolist()
        nothing: list[list[int]] = [[] for _ in users]
        batch = sequences.held_out(users, "test", history)
        mask = np.repeat(np.arange(batch.items.shape[1]) < batch.lengths[:, None], self.levels, axis=1)
        source = torch.as_tensor(self.rows[batch.items, : self.levels]).flatten(1)  # (B, n * L)
        read = {"input_ids": source, "attention_mask": torch.as_tensor(mask).long()}
        return [self.generate(read, seen if without_seen else nothing) for without_seen in masked]

    def generate(self, read: dict[str, Tensor], denied: list[list[int]]) -> BeamResult:
        processors = LogitsProcessorList(
            [
                LevelLogProbabilities(self.offsets),
                PrefixConstrainedLogitsProcessor(self.allowed_after(denied), self.beam),
            ]
        )
        with torch.inference_mode():
            found = self.model.generate(
                **read,
                logits_processor=processors,
                num_beams=self.beam,
                num_return_sequences=self.beam,
                do_sample=False,
                length_penalty=0.0,
                max_new_tokens=self.rows.shape[1],
                return_dict_in_generate=True,
                output_scores=True,
            )
        items = [self.item_of.get(tuple(row), -1) for row in found.sequences[:, 1:].tolist()]
        return BeamResult(torch.tensor(items).view(-1, self.beam), found.sequences_scores.view(-1, self.beam))

    def allowed_after(self, denied: list[list[int]]) -> Any:
        """Returns the function that tells `generate` which tokens may follow a beam of a user."""
        denied_under = [
            Counter(
                tuple(row[: depth + 1])
                for row in self.rows[sorted(set(items) - {-1})].tolist()
                for depth in range(len(row))
            )
            for items in denied
        ]

        def allowed(user: int, tokens: Tensor) -> list[int]:
            prefix, left = tuple(tokens.tolist()[1:]), denied_under[user]
            following = self.following.get(prefix, [])
            if not left:
                return following
            return [token for token in following if self.items_under[(*prefix, token)] > left[(*prefix, token)]]

        return allowed


def t5_of(recommender: Recommender) -> T5ForConditionalGeneration:
    """transformers' T5 with the recommender's weights and without an end token."""
    config = t5_config(
        recommender.config,
        tie_word_embeddings=True,
        decoder_start_token_id=START,
        pad_token_id=START,
        eos_token_id=None,
    )
    model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.shared.weight.copy_(recommender.token_table.weight)
        for ours, theirs in ((recommender.encoder, model.encoder), (recommender.decoder, model.decoder)):
            for target, source in stack_pairs(ours, theirs):
                target.copy_(source)
    return model
