"""The generative retriever: from histories to items, by beam search over the prefix tree of all semantic IDs.

A set decoder scores the whole catalogue in one pass instead, and is exact.

Shapes: B histories of up to n items, N items, T codes of an identifier, L levels, E d_model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from unigrec.core.models.inference import InferenceRecommender
from unigrec.core.models.recommender import Recommender
from unigrec.core.models.unified import embed_hard_history, expand_history
from unigrec.core.retrieval.beam import BeamResult, Repeats, beam_searches
from unigrec.core.retrieval.prefix_tree import PrefixTree, Restriction
from unigrec.core.retrieval.retriever import CPU, Retriever
from unigrec.core.retrieval.set_scan import scan_catalogue
from unigrec.core.sequences import last_items


class GenerativeRetriever(Retriever):
    """A recommender with the identifiers of its catalogue.

    Args:
        tree: of the N identifiers. read: what the recommender reads of each item, on the device of the search: its
            first L codes (N, L), or its tokens (N, L or 1, E), as `Recommender.item_tokens` makes them.
        history: items of a history that are read, the last ones. beam: width of a search, or more where k is more.
    """

    def __init__(self, recommender: Recommender, tree: PrefixTree, read: Tensor, history: int, beam: int):
        super().__init__(tree, history, read.device)
        self.recommender, self.read, self.beam = recommender, read, beam
        is_scan = recommender.config.decoder == "set"
        self.network = None if is_scan else InferenceRecommender(recommender)  # for the beam search

    @classmethod
    def hardened(
        cls,
        recommender: Recommender,
        codes: np.ndarray,
        history: int,
        beam: int,
        device: torch.device = CPU,
        stored: Mapping[str, Tensor] | None = None,
        tokens: Tensor | None = None,
    ) -> GenerativeRetriever:
        """From the hardened identifiers (N, T).

        stored: as in `PrefixTree`. tokens: (N, L or 1, E) that a recommender of item vectors reads of the items; one of
        codes alone has none. Raises ValueError as `PrefixTree`, or if tokens and recommender do not belong together.
        """
        if (tokens is not None) != bool(recommender.config.vector_width):
            raise ValueError("item tokens belong to a recommender that reads item vectors, and to no other")
        read = torch.as_tensor(codes[:, : recommender.config.levels]) if tokens is None else tokens
        read = read.to(device)
        return cls(recommender.to(device).eval(), PrefixTree(codes, device, stored), read, history=history, beam=beam)

    def best(self, items: np.ndarray, lengths: np.ndarray, restriction: Restriction | None, k: int) -> BeamResult:
        return self.search(items, lengths, [restriction], max(k, self.beam))[0]

    @torch.inference_mode()
    def search(
        self,
        items: np.ndarray,
        lengths: np.ndarray,
        restrictions: Sequence[Restriction | None] = (None,),
        beam: int | Sequence[int] | None = None,
        above: Sequence[float] | None = None,
    ) -> list[BeamResult]:
        """What `beam_searches` returns for each restriction: items (B, n), padded on the right, and lengths (B,).

        Of longer histories the end is read. beam: one width for all restrictions, or one for each. above: what a log-
        probability must exceed, for each restriction.
        """
        items, lengths = last_items(items, lengths, self.history)
        source, mask = self.embed(items, lengths)
        history, sizes = (torch.as_tensor(part, device=self.device) for part in (items, lengths))
        repeats = Repeats.of(self.recommender, history, sizes)
        inputs = (self.tree, source, mask, beam or self.beam, restrictions)
        if self.network is None:
            return scan_catalogue(self.recommender, *inputs, repeats=repeats, above=above)
        return beam_searches(self.network, *inputs, repeats=repeats, above=above)

    @torch.no_grad()
    def embed(self, items: np.ndarray, lengths: np.ndarray) -> tuple[Tensor, Tensor]:
        """The recommender's input (B, S, E) and its mask (B, S): S is n * L, or n if an item's tokens are merged."""
        history, sizes = (torch.as_tensor(part, device=self.device) for part in (items, lengths))
        if self.read.is_floating_point():
            return expand_history(self.read, history, sizes)
        return embed_hard_history(self.recommender, self.read[history], sizes)
