"""The teacher's items in an index: an approximate search for its best items, for catalogues of a million items.

An inverted file of faiss: items in lists around centres, of which a search reads those whose centres are best. It finds
nearly all that the teacher finds probable, in a tenth of the time of an exact search (docs/scale.md).

Shapes: P targets, N items, K best items, T items of a history, E numbers of all members of the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unigrec.base.errors import UnigrecError
from unigrec.core.models.ensemble import Teacher, members_of
from unigrec.core.models.sasrec import States

LISTS_PER_ROOT, READ = 4.0, 32  # lists: this many times the root of N; how many of them a search reads
TRAINED = 64  # items per list that the centres are learned from


class TeacherIndex:
    """The item vectors of a frozen teacher. The same vectors give the same index, bit by bit.

    Raises:
        UnigrecError: faiss is not installed.
    """

    def __init__(self, teacher: Teacher):
        try:
            import faiss
        except ImportError as error:
            raise UnigrecError(
                "joint.ranking_search: index needs faiss: pip install -r requirements-index.lock"
            ) from error
        faiss.omp_set_num_threads(torch.get_num_threads())
        members = members_of(teacher)
        vectors = torch.cat([member.item_vectors().cpu() for member in members], dim=1) / len(members)
        self.vectors = vectors.float().contiguous()  # (N, E): a product with the states is the mean of the scores
        count, width = self.vectors.shape
        lists = max(min(round(LISTS_PER_ROOT * count**0.5), count // TRAINED), 1)
        index: Any = faiss.index_factory(width, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
        index.nprobe = READ
        drawn = np.random.default_rng(0).permutation(count)[: lists * TRAINED]
        index.train(self.vectors.numpy()[np.sort(drawn)])
        index.add(self.vectors.numpy())
        self.index = index

    @torch.no_grad()
    def best(self, states: Sequence[States], count: int) -> tuple[Tensor, Tensor]:
        """Items (P, K) and scores (P, K), the best first. What was not found has the score -inf.

        The items of the history are found in any case, with what the repeat bias adds to them.

        Args:
            states: of each member, on any device.
        """
        device, queries = states[0].hidden.device, torch.cat([own.hidden for own in states], dim=1).cpu()
        found = self.index.search(queries.float().numpy(), count)
        scores, items = (torch.as_tensor(part, device=device) for part in found)
        scores = scores.masked_fill(items < 0, float("-inf"))
        read, bonus = states[0].items, _mean_bonus(states)
        if read is None or bonus is None:
            return items.clamp_min(0), scores
        same = items[:, :, None] == read[:, None]  # (P, K, T); false where nothing was found, at -1
        scores = scores + (same * bonus[:, None]).sum(-1)
        exact = torch.einsum("pe,pte->pt", queries.float(), self.vectors[read.cpu()]).to(device) + bonus
        missing = (bonus != 0) & ~same.any(1)  # each item of a history has a bias at one of its places
        items = torch.cat([items.clamp_min(0), read], dim=1)
        scores = torch.cat([scores, exact.masked_fill(~missing, float("-inf"))], dim=1)
        scores, order = scores.topk(count, dim=1)
        return items.gather(1, order), scores


def _mean_bonus(states: Sequence[States]) -> Tensor | None:
    """(P, T) mean over the members of what the repeat bias adds; None without one."""
    given = [own.bonus for own in states if own.bonus is not None]
    return torch.stack(given).sum(0) / len(states) if given else None
