"""The generative retriever: from histories to items, by beam search over the prefix tree of all semantic IDs.

Any other retriever takes the same call: histories, k and what may be recommended -> items and scores.

Shapes: B histories of up to n items, N items, T codes of an identifier, L levels, E d_model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from unigrec.core.models.recommender import Recommender
from unigrec.core.models.unified import embed_hard_history, expand_history
from unigrec.core.retrieval.beam import BeamResult, Repeats, beam_searches
from unigrec.core.retrieval.prefix_tree import PrefixTree, Restriction
from unigrec.core.sequences import chunks_by_length, pad_rows

CPU = torch.device("cpu")
CPU_BATCH = 64  # histories: what a step computes stays near the processor, and products are large enough
GPU_BATCH = 256


class GenerativeRetriever:
    """A recommender with the identifiers of its catalogue.

    Args:
        tree: of the N identifiers. read: what the recommender reads of each item, on the device of the search: its
            first L codes (N, L), or the tokens of its soft identifier (N, L, E).
        history: items of a history that are read, the last ones. beam: width of a search, or more where k is more.
    """

    def __init__(self, recommender: Recommender, tree: PrefixTree, read: Tensor, history: int, beam: int):
        self.recommender, self.tree, self.read = recommender, tree, read
        self.history, self.beam, self.device = history, beam, read.device

    @classmethod
    def hardened(
        cls, recommender: Recommender, codes: np.ndarray, history: int, beam: int, device: torch.device = CPU
    ) -> GenerativeRetriever:
        """From the hardened identifiers (N, T). Raises ValueError when two items share an identifier."""
        read = torch.as_tensor(codes[:, : recommender.config.levels], device=device)
        return cls(recommender.to(device).eval(), PrefixTree(codes, device), read, history=history, beam=beam)

    def retrieve(
        self,
        histories: Sequence[Sequence[int]],
        k: int,
        allowed: Tensor | None = None,
        denied: Sequence[Sequence[int]] | None = None,
    ) -> BeamResult:
        """The k best items for each history, and their scores: (B, k) twice.

        Args:
            histories: item indices, oldest first, none empty.
            allowed: (N,) whether an item may be recommended at all. denied: for each history, items that may not.
        """
        found = BeamResult(
            torch.full((len(histories), k), -1, device=self.device),
            torch.full((len(histories), k), float("-inf"), device=self.device),
        )
        for rows in self.batches(np.array([len(items) for items in histories])):
            items, lengths = pad_rows([histories[row][-self.history :] for row in rows], fill=0)
            restriction = None
            if allowed is not None or denied is not None:
                unwanted = None
                if denied is not None:
                    padded, _ = pad_rows([denied[row] for row in rows], fill=-1)
                    unwanted = torch.as_tensor(padded, device=self.device)
                restriction = Restriction(self.tree, allowed, unwanted)
            (best,) = self.search(items, lengths, [restriction], max(k, self.beam))
            width = min(k, best.items.shape[1])
            found.items[rows, :width], found.scores[rows, :width] = best.items[:, :width], best.scores[:, :width]
        return found

    def batches(self, lengths: np.ndarray, most: int = GPU_BATCH) -> Iterator[np.ndarray]:
        """Rows to search together: sorted by their `lengths` (B,), as many as suit the device, at most `most`."""
        return chunks_by_length(lengths, min(CPU_BATCH, most) if self.device.type == "cpu" else most)

    @torch.inference_mode()
    def search(
        self,
        items: np.ndarray,
        lengths: np.ndarray,
        restrictions: Sequence[Restriction | None] = (None,),
        beam: int | None = None,
    ) -> list[BeamResult]:
        """What `beam_searches` returns for each restriction: items (B, n), padded on the right, and lengths (B,)."""
        source, mask = self.embed(items, lengths)
        history, sizes = (torch.as_tensor(part, device=self.device) for part in (items, lengths))
        repeats = Repeats.of(self.recommender, history, sizes)
        return beam_searches(
            self.recommender, self.tree, source, mask, beam or self.beam, restrictions, repeats=repeats
        )

    @torch.no_grad()
    def embed(self, items: np.ndarray, lengths: np.ndarray) -> tuple[Tensor, Tensor]:
        """The recommender's input (B, n * L, E) and its mask (B, n * L)."""
        history, sizes = (torch.as_tensor(part, device=self.device) for part in (items, lengths))
        if self.read.is_floating_point():
            return expand_history(self.read, history, sizes)
        return embed_hard_history(self.recommender, self.read[history], sizes)
