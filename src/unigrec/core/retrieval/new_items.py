"""Items that were added after the training, ranked among themselves.

    score(i) = state(history) . w(i) + TEXT_WEIGHT * sum over the last items of DECAY ** place * cos(item, i)

No model and no count knows a new item. The teacher scores an item by the product of its state and the item's vector, so
w is what a linear map predicts of that vector from the item's text, fitted to the trained items. On two data sets with
hidden items the generative model's log-probability of the identifier ranked worse than either term, and added nothing
to their sum (docs/answers.md).

New items of a history are not read. If it holds no others, the trained items with the nearest texts are read instead.

Shapes: M new items, N trained items, D content dimensions, E width of a teacher, B histories.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unigrec.core.models.ensemble import Teacher, members_of
from unigrec.core.models.linear_map import ridge_regression
from unigrec.core.retrieval.beam import BeamResult
from unigrec.core.sequences import in_chunks, last_items, pad_rows

RECENT, DECAY = 3, 0.4  # items of a history that are compared, the last ones; weight of an item per item after it
TEXT_WEIGHT = 4.0
RIDGE = 0.1
AT_ONCE = 2**24  # numbers of a product


class NewItems:
    """Ranks new items after histories of trained items.

    Args:
        teacher: of the trained items. content: (M, D) of length 1. trained: (N, D) content of the trained items.
    """

    def __init__(self, teacher: Teacher, content: Tensor, trained: Tensor):
        self.teacher, self.content, self.trained = teacher, content, trained
        maps = [ridge_regression(trained, one.item_vectors(), RIDGE) for one in members_of(teacher)]
        self.vectors = [content @ one.weight.T + one.bias for one in maps]  # (M, E) per network of the teacher

    def stand_ins(self) -> Tensor:
        """(M,) the trained item whose text is nearest to each new one."""
        size = max(AT_ONCE // len(self.trained), 1)
        return torch.cat([(part @ self.trained.T).argmax(1) for part in self.content.split(size)])

    @torch.inference_mode()
    def scores(self, histories: Sequence[Sequence[int]]) -> Tensor:
        """(B, M) after histories of trained items, none of them empty."""
        items, lengths = pad_rows([history[-max(self.teacher.history, RECENT) :] for history in histories], fill=0)
        short = [torch.as_tensor(part) for part in last_items(items, lengths, self.teacher.history)]
        products = [
            one.last_hidden(*short) @ vectors.T
            for one, vectors in zip(members_of(self.teacher), self.vectors, strict=True)
        ]
        scores = torch.stack(products).mean(0)
        for back in range(min(RECENT, items.shape[1])):
            rows = (lengths > back).nonzero()[0]
            recent = self.trained[torch.as_tensor(items[rows, lengths[rows] - 1 - back])]
            scores[torch.as_tensor(rows)] += TEXT_WEIGHT * DECAY**back * (recent @ self.content.T)
        return scores

    @torch.inference_mode()
    def best(
        self,
        histories: Sequence[Sequence[int]],
        k: int,
        allowed: Tensor | None = None,
        denied: Sequence[Sequence[int]] | None = None,
    ) -> BeamResult:
        """The k best new items for each history, and their scores: (B, k) twice; -1 for none.

        Args:
            allowed: (M,) whether a new item may be recommended at all. denied: new items that may not, per history.
        """
        k = min(k, len(self.content))
        found = BeamResult(torch.full((len(histories), k), -1), torch.full((len(histories), k), -torch.inf))
        for rows in in_chunks(np.arange(len(histories)), max(AT_ONCE // len(self.content), 1)):
            scores = self.scores([histories[row] for row in rows])
            if allowed is not None:
                scores[:, ~allowed] = -torch.inf
            for place, unwanted in enumerate([] if denied is None else [denied[row] for row in rows]):
                scores[place, list(unwanted)] = -torch.inf
            best = scores.topk(k, dim=1)
            found.items[rows] = best.indices.masked_fill(best.values == -torch.inf, -1)
            found.scores[rows] = best.values
        return found
