"""From words to items: the identifiers that the tokenizer gives to an embedded query.

    log p(c | query) = sum over levels of log p_l(c_l | query) + CLOSENESS * cosine(query, text of c)

The soft assignments of the tokenizer, whose encoder reads the query in place of an item, are a distribution over codes.
They tell kinds of items; the cosine tells the items of a kind apart.

Shapes: N items, D content dimensions, E dimensions that the tokenizer reads of the teacher, L levels, T codes.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from unigrec.core.models.linear_map import LinearMap, ridge_regression
from unigrec.core.models.tokenizers.residual import Tokenizer

TEMPERATURE = 1.0  # of the soft assignments of a query: flatter than in training, since a query says little
CLOSENESS = 20.0
RIDGE = 1e-2


class QueryScorer:
    """Scores the catalogue for embedded queries.

    Args:
        tokenizer: reads D + E numbers. codes: (N, T). content: (N, D) of length 1, or 0. part: (n, E) what the
            tokenizer read of the teacher, of the first n items; of a query, it is predicted from the content.
    """

    def __init__(self, tokenizer: Tokenizer, codes: np.ndarray, content: Tensor, part: Tensor):
        self.tokenizer, self.content, self.part = tokenizer, content, part
        self.codes = torch.as_tensor(codes)[:, : tokenizer.levels]

    @cached_property
    def _to_part(self) -> LinearMap:
        return ridge_regression(self._scaled(self.content[: len(self.part)]), self.part, RIDGE)

    def _scaled(self, unit: Tensor) -> Tensor:
        """Vectors as long as an item's embedding is on average: one variance per dimension."""
        return unit * math.sqrt(unit.shape[-1])

    @torch.inference_mode()
    def code_scores(self, query: Tensor, temperature: float = TEMPERATURE) -> Tensor:
        """(N,) log-probability of each item's first L codes. query: (D,) of length 1."""
        vector = self._scaled(query)[None]
        if self.part.shape[1]:
            vector = torch.cat([vector, vector @ self._to_part.weight.T + self._to_part.bias], dim=1)
        latent = self.tokenizer.encoder(vector)
        log_p = self.tokenizer.quantize_soft(latent, temperature).log_probabilities[0]  # (L, K)
        return log_p.gather(1, self.codes.T).sum(0)

    @torch.inference_mode()
    def scores(self, query: Tensor) -> Tensor:
        """(N,) what a search ranks by. query: (D,) of length 1."""
        return self.code_scores(query) + CLOSENESS * (self.content @ query)
