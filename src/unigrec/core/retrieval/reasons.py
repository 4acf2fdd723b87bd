"""What a recommendation rests on: how much lower its score is without each item of the history.

The score is the fused one without its generative part, which would cost a search per item: dense part and neighbours
are asked again without the item. What the user's own purchases of a recommended item add is that of all of them
together, at the last one. A bundle asks one network of the dense part, so that a reason costs the same however many
there are. `python -m benchmarks.reasons` compares this with the whole fused score, and with attention and counts.

Shapes: n items of a history, k recommended items, N items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unigrec.core.models.ensemble import Teacher
from unigrec.core.retrieval.fused import Weights
from unigrec.core.retrieval.neighbours import Neighbours
from unigrec.core.sequences import LONGEST

SAMPLED = 400  # items of the catalogue that stand for all of them in the denominator of a probability
MOST_READ = 5  # items of a history, the last ones: each costs a pass of the dense part


@torch.inference_mode()
def support(model: Teacher, neighbours: Neighbours, weights: Weights, history: Sequence[int], items: Tensor) -> Tensor:
    """(k, n) what each item of a history adds to the score of each recommended item.

    Of a longer history the last `MOST_READ` items are judged; earlier ones have 0, but for purchases of a recommended
    item itself. Where one item is all that the dense part reads, it has 1: there is no score without it.

    Args:
        history: n catalogue indices, oldest first, at least one. items: (k,) catalogue indices.
    """
    found = torch.zeros(len(items), len(history))
    if len(history) == 1:
        return found + 1.0
    read = list(history[-model.history :])
    if len(read) == 1:
        found[:, -1] = 1.0
    else:
        falls = _falls(model, neighbours, weights, read, items)
        found[:, -falls.shape[1] :] = falls
    own = np.array(history)[None] == items.numpy()[:, None]  # (k, n)
    own[:, :-LONGEST] = False
    counts = own.sum(1)
    last = own.shape[1] - 1 - own[:, ::-1].argmax(1)
    found[np.arange(len(items)), last] += torch.from_numpy(weights.own * np.log1p(counts)).float()
    return found


def _falls(model: Teacher, neighbours: Neighbours, weights: Weights, read: Sequence[int], items: Tensor) -> Tensor:
    """(k, judged) how much lower the score of each recommended item is without each of the last items that are read.

    read: at least two catalogue indices.
    """
    n, judged = len(read), min(len(read), MOST_READ)
    rows = np.tile(np.array(read), (judged + 1, 1))  # row j lacks the item at n - judged + j, the last row none
    for row, left_out in enumerate(range(n - judged, n)):
        rows[row, left_out:-1] = rows[row, left_out + 1 :]
    lengths = torch.full((judged + 1,), n - 1)
    lengths[-1] = n
    others = torch.arange(0, len(neighbours.content), -(-len(neighbours.content) // SAMPLED))
    logits = model.scores_of(torch.from_numpy(rows), lengths, torch.cat([items, others]))  # (judged + 1, k + sampled)
    relative = logits[:, : len(items)] - logits[:, len(items) :].logsumexp(1, keepdim=True)
    near = neighbours.near(torch.from_numpy(rows), lengths, wanted=items)
    terms = weights._asdict()
    close = torch.stack([terms[name] * values for name, values in near._asdict().items()]).sum(0)
    return ((relative[-1] - relative[:-1]) + (close[-1] - close[:-1])).T
