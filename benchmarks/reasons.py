"""`python -m benchmarks.reasons`: which history item does a recommendation rest on, by the fused score itself?

For test users, each item of the history is left out in turn, and the fused score of the ten recommended items is
computed again. A way to name the reason is judged by the items that it names: how often that is the item whose absence
lowers the score most, and the sum of the falls of the named items as a share of that of the largest ones.
docs/answers.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from unigrec.base.errors import UnigrecError
from unigrec.base.markdown import markdown_table
from unigrec.base.process import keep_quiet, training_device

keep_quiet()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.quality.steps import finished_rung, load_data  # noqa: E402
from unigrec.base import files  # noqa: E402
from unigrec.core.models.sasrec import Block, SASRec  # noqa: E402
from unigrec.core.retrieval.basket_counts import count_baskets  # noqa: E402
from unigrec.core.retrieval.baskets import Baskets  # noqa: E402
from unigrec.core.retrieval.fused import FusedRetriever, Weights  # noqa: E402
from unigrec.core.retrieval.prefix_tree import Restriction  # noqa: E402
from unigrec.core.retrieval.reasons import support  # noqa: E402
from unigrec.core.sequences import pad_rows, sample  # noqa: E402
from unigrec.pipeline.stages import retriever_of  # noqa: E402

SHOWN = 10  # items of a list
LONGEST = 20  # items of a history that are read
Way = Callable[[list[int], Tensor], Tensor]  # history (n,), items (k,) -> (k, n)


def fused_scores(retriever: FusedRetriever, histories: list[list[int]], items: Tensor) -> Tensor:
    """(B, k) fused scores of some items after each history."""
    padded, lengths = pad_rows(histories, fill=0)
    only = Restriction(retriever.tree, only=items.expand(len(histories), -1))
    (found,) = retriever.search(padded, lengths, [only], k=len(items))
    ranked = retriever.ranked(found.candidates)
    places = (ranked.items[:, None, :] == items[:, None]).int().argmax(-1)  # (B, k)
    return ranked.scores.gather(1, places)


def falls(retriever: FusedRetriever, history: list[int], items: Tensor) -> Tensor:
    """(k, n) how much lower the fused score of each item is without each item of the history."""
    without = [history[:place] + history[place + 1 :] for place in range(len(history))]
    scores = fused_scores(retriever, [history, *without], items)
    return (scores[0] - scores[1:]).T


def attention(members: list[SASRec]) -> Way:
    """What the last position attends to, the mean over networks, blocks and heads: one for all recommended items."""

    def of_one(model: SASRec, history: list[int]) -> Tensor:
        read = torch.tensor([history[-model.history :]])
        length = torch.tensor([read.shape[1]])
        positions = model.history - length + torch.arange(read.shape[1])
        hidden = model.norm(model.item_table()[read] + model.position_embedding(positions))
        found = torch.zeros(read.shape[1])
        for block in model.blocks:
            assert isinstance(block, Block)
            B, T, E = hidden.shape
            query, key, _ = block.qkv(hidden).view(B, T, 3, block.heads, E // block.heads).permute(2, 0, 3, 1, 4)
            scores = (query[:, :, -1:] @ key.transpose(-1, -2)) / (E // block.heads) ** 0.5
            found += scores.softmax(-1).mean((0, 1, 2)) / len(model.blocks)
            hidden = block(hidden)
        return found

    @torch.inference_mode()
    def weights(history: list[int], items: Tensor) -> Tensor:
        return torch.stack([of_one(model, history) for model in members]).mean(0).expand(len(items), -1)

    return weights


def lifts(baskets: Baskets) -> Way:
    def of(history: list[int], items: Tensor) -> Tensor:
        found = torch.zeros(len(items), len(history))
        for place, item in enumerate(history):
            others, _, values = baskets.pairs(item)
            known = dict(zip(others.tolist(), values.tolist(), strict=True))
            found[:, place] = torch.tensor([known.get(other, 0.0) for other in items.tolist()])
        return found

    return of


def ways(retriever: FusedRetriever, baskets: Baskets) -> dict[str, Way]:
    neighbours, model = retriever.neighbours, retriever.dense.model
    members = [model] if isinstance(model, SASRec) else [m for m in model.members if isinstance(m, SASRec)]
    assert retriever.weights is not None
    weights = Weights(*retriever.weights[1:].tolist())
    none = Weights(0.0, 0.0, 0.0)
    content = neighbours.content
    by_lift = lifts(baskets)
    found: dict[str, Way] = {
        "leaving it out, dense part and neighbours": lambda history, items: support(
            model, neighbours, weights, history, items
        ),
        "leaving it out, one network of the dense part and neighbours": lambda history, items: support(
            members[0], neighbours, weights, history, items
        ),
        "leaving it out, dense part": lambda history, items: support(model, neighbours, none, history, items),
        "lift of baskets": by_lift,
        "direct successors": lambda history, items: neighbours.following(torch.tensor(history))[:, items].T,
        "cosine of texts": lambda history, items: content[items] @ content[history].T,
        "lift, then cosine": lambda history, items: (
            by_lift(history, items) + 0.01 * (content[items] @ content[history].T)
        ),
        "the last item": lambda history, items: torch.arange(len(history)).float().expand(len(items), -1),
    }
    found["attention of the dense part"] = attention(members)
    return found


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.reasons", description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True, help="a project's artifacts folder")
    parser.add_argument("--users", type=int, default=300, help="test users with at least two items")
    parser.add_argument("rung", type=Path, help="a finished rung of the ladder: OUT/seed-1/M14/KEY")
    options = parser.parse_args()
    try:
        data, device = load_data(options.artifacts), training_device()
        read = files.read_json(options.rung / "params.json")["params"]
        retriever = retriever_of(
            finished_rung(options.rung, data), read["joint"]["history"], beam=read["evaluate"]["beam"], device=device
        )
        users = sample(data.sequences.evaluation_users(), options.users, 1)
        held_out = data.sequences.held_out(users, "test", LONGEST)
        named = ways(retriever, count_baskets(data.sequences))
        first: dict[str, list[float]] = {name: [] for name in named}
        shares: dict[str, list[float]] = {name: [] for name in named}
        seconds, total = dict.fromkeys(named, 0.0), 0.0
        for row, length in zip(held_out.items, held_out.lengths, strict=True):
            history = row[:length].tolist()
            if len(history) < 2:
                continue
            items = retriever.retrieve([history], SHOWN).items[0]
            fall = falls(retriever, history, items)
            largest = fall.max(1).values
            total += float(largest.sum())
            for name, way in named.items():
                began = time.process_time()
                chosen = way(history, items).argmax(1)
                seconds[name] += time.process_time() - began
                own = fall.gather(1, chosen[:, None])[:, 0]
                first[name] += (own >= largest - 1e-6).tolist()
                shares[name].append(float(own.sum()))
        count = len(first["the last item"])
        print(f"{count} recommendations of {count // SHOWN} users\n")
        rows = [
            [
                name,
                f"{np.mean(first[name]):.3f}",
                f"{sum(shares[name]) / total:.3f}",
                f"{1e3 * SHOWN * seconds[name] / count:.2f}",
            ]
            for name in sorted(named, key=lambda name: -sum(shares[name]))
        ]
        print(
            markdown_table(
                ["reason named by", "the item of the largest fall", "share of the largest falls", "CPU ms"], rows
            )
        )
    except UnigrecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
