"""What every retriever is: from histories to items.

Shapes: B histories of up to n items, N items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from unigrec.core.retrieval.beam import BeamResult
from unigrec.core.retrieval.prefix_tree import PrefixTree, Restriction
from unigrec.core.sequences import chunks_by_length, pad_rows

CPU = torch.device("cpu")
CPU_BATCH = 64  # histories: what a step computes stays near the processor, and products are large enough
GPU_BATCH = 256


class Retriever(ABC):
    """From histories to items.

    Args:
        tree: of the N identifiers. history: items of a history that are read, the last ones. device: of the search.
    """

    def __init__(self, tree: PrefixTree, history: int, device: torch.device):
        self.tree, self.history, self.device = tree, history, device

    @abstractmethod
    def best(self, items: np.ndarray, lengths: np.ndarray, restriction: Restriction | None, k: int) -> BeamResult:
        """At least the k best permitted items of each history, sorted.

        items: (B, n), padded on the right by lengths (B,), none of which is 0.
        """

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
            best = self.best(items, lengths, restriction, k)
            width = min(k, best.items.shape[1])
            found.items[rows, :width], found.scores[rows, :width] = best.items[:, :width], best.scores[:, :width]
        return found

    def batches(self, lengths: np.ndarray, most: int = GPU_BATCH) -> Iterator[np.ndarray]:
        """Rows to search together: sorted by their `lengths` (B,), as many as suit the device, at most `most`."""
        return chunks_by_length(lengths, min(CPU_BATCH, most) if self.device.type == "cpu" else most)
