"""`python -m benchmarks.new_items`: hidden items are added to a bundle by their texts; are they found?

Of each user whose test item is hidden: the other items of the history are given, and all new items are ranked. Users
whose test item is another one say what places for new items cost. docs/answers.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import chdir
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.new_items.hide import HIDDEN_FILE
from benchmarks.quality.__main__ import as_command
from benchmarks.quality.bundle import bundle_of_rung
from benchmarks.quality.steps import load_data
from unigrec.base import files
from unigrec.base.errors import EXIT_OK
from unigrec.base.markdown import markdown_table
from unigrec.base.paths import Artifacts
from unigrec.base.process import keep_quiet
from unigrec.core.evaluation.metrics import ndcg, rank_in_scores, recall
from unigrec.core.models.ensemble import members_of
from unigrec.core.models.linear_map import ridge_regression
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.retrieval.new_items import DECAY, RECENT, RIDGE
from unigrec.core.retrieval.prefix_tree import PrefixTree
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.core.sequences import in_chunks, pad_rows
from unigrec.pipeline.outputs import load_item_ids, load_sequences
from unigrec.serving.bundle import Bundle
from unigrec.serving.extend import add_items
from unigrec.serving.manifest import MANIFEST
from unigrec.serving.schema import NewShare

USERS_AT_ONCE = 64
CUTOFF = 10
PLACES = (0, 1, 2, 3)  # for new items, of ten


class Targets(NamedTuple):
    """Users with a history of at least one trained item."""

    histories: list[list[str]]  # all items before the target
    targets: list[str]


def split_targets(artifacts: Artifacts, bundle: Bundle) -> tuple[Targets, Targets]:
    """The users whose test item is new, and those whose test item is an old one."""
    sequences, ids = load_sequences(artifacts), np.array(load_item_ids(artifacts), dtype=object)
    found = Targets([], []), Targets([], [])
    for user in sequences.evaluation_users():
        own = ids[sequences.items[sequences.offsets[user] : sequences.offsets[user + 1]]].tolist()
        if any(bundle.index_of[item] < bundle.trained for item in own[:-1]):
            part = found[0 if bundle.index_of[own[-1]] >= bundle.trained else 1]
            part.histories.append(own[:-1])
            part.targets.append(own[-1])
    return found


def rankings(bundle: Bundle, histories: list[list[int]]) -> dict[str, torch.Tensor]:
    """(B, M) scores of all new items by several rules; histories of trained items."""
    new, recommender = bundle.new_items, bundle.recommender
    assert new is not None
    generative = bundle.retrievers[RankBy.GENERATIVE]
    assert isinstance(generative, GenerativeRetriever)
    codes = bundle.identifiers[bundle.trained :]
    items, lengths = pad_rows([history[-new.teacher.history :] for history in histories], fill=0)
    near = [torch.zeros(len(items), len(codes)) for _ in range(RECENT)]
    for back, scores in enumerate(near):
        rows = np.flatnonzero(lengths > back)
        scores[rows] = new.trained[items[rows, lengths[rows] - 1 - back]] @ new.content.T
    alone = GenerativeRetriever(recommender, PrefixTree(codes), generative.read, generative.history, len(codes))
    alone.recommender.repeat_bias, bias = None, alone.recommender.repeat_bias  # no new item is a repeat
    (found,) = alone.search(items, lengths)
    alone.recommender.repeat_bias = bias
    log_p = torch.full((len(items), len(codes)), -torch.inf).scatter(1, found.items, found.scores)
    texts = sum((DECAY**back * scores for back, scores in enumerate(near)), torch.zeros(()))
    shipped = new.scores(histories)
    maps = [ridge_regression(new.trained, one.item_vectors(), RIDGE) for one in members_of(new.teacher)]
    state = [
        one.last_hidden(torch.as_tensor(items), torch.as_tensor(lengths)) @ (new.content @ fit.weight.T + fit.bias).T
        for one, fit in zip(members_of(new.teacher), maps, strict=True)
    ]
    return {
        "shipped: predicted vector and texts": shipped,
        "predicted vector alone": torch.stack(state).mean(0),
        "texts of the last three items alone": texts,
        "text of the last item alone": near[0],
        "log p of the identifier": log_p,
        "log p of the identifier and 8 times texts": log_p + 8.0 * texts,
        "shipped, and 0.1 times log p": shipped + 0.1 * log_p,
        "random": torch.rand(shipped.shape, generator=torch.Generator().manual_seed(0)),
    }


@torch.inference_mode()
def ranks_among_new(bundle: Bundle, cold: Targets) -> dict[str, np.ndarray]:
    """(U,) rank of each target among the new items, by rule."""
    ranks: dict[str, list[np.ndarray]] = {}
    for rows in in_chunks(np.arange(len(cold.targets)), USERS_AT_ONCE):
        known = [[bundle.index_of[item] for item in cold.histories[row]] for row in rows]
        read = [bundle.trained_items(history) for history in known]
        targets = torch.tensor([bundle.index_of[cold.targets[row]] - bundle.trained for row in rows])
        for rule, scores in rankings(bundle, read).items():
            ranks.setdefault(rule, []).append(rank_in_scores(scores, targets).numpy())
    return {rule: np.concatenate(parts) for rule, parts in ranks.items()}


def ranks_in_lists(bundle: Bundle, asked: Targets, places: int) -> np.ndarray:
    """(U,) rank of each target in a list of ten."""
    ranks = []
    share = NewShare(at_least=places, days=1) if places else None
    for rows in in_chunks(np.arange(len(asked.targets)), 10 * USERS_AT_ONCE):
        histories = [asked.histories[row] for row in rows]
        for row, answer in zip(rows, bundle.recommend(histories, CUTOFF, new_share=share), strict=True):
            names = [item.item_id for item in answer.items]
            ranks.append(names.index(asked.targets[row]) + 1 if asked.targets[row] in names else 0)
    return np.array(ranks)


def with_stand_ins(bundle: Bundle, asked: Targets) -> Targets:
    """The same users, with the trained item of the nearest text in place of each new item of a history."""
    assert bundle.new_items is not None
    ids = np.array(bundle.item_ids, dtype=object)
    read_as = dict(zip(ids[bundle.trained :], ids[bundle.new_items.stand_ins().numpy()], strict=True))
    return asked._replace(histories=[[read_as.get(item, item) for item in own] for own in asked.histories])


def figures(ranks: np.ndarray) -> list[str]:
    return [f"{recall(ranks, CUTOFF).mean():.4f}", f"{ndcg(ranks, CUTOFF).mean():.4f}"]


def run() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.new_items", description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True, help="a project's artifacts folder, with all items")
    parser.add_argument("--hidden", type=Path, required=True, help="what benchmarks.new_items.hide wrote")
    parser.add_argument("rung", type=Path, help="a finished rung on the data without these items: OUT/seed-1/M14/KEY")
    options = parser.parse_args()
    keep_quiet()
    with tempfile.TemporaryDirectory() as scratch:
        parent = bundle_of_rung(options.rung, load_data(options.hidden / "artifacts"), Path(scratch))
        hidden = files.read_table(options.hidden / HIDDEN_FILE)
        began = time.perf_counter(), time.process_time()
        with chdir(scratch):
            now = files.read_json(parent / MANIFEST)["data"]["until"]
            bundle = Bundle.load(add_items(parent, hidden, now).absolute())
            bundle.recommend([bundle.item_ids[:1]], CUTOFF, new_share=NewShare(at_least=2, days=1))
        wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        cold, warm = split_targets(Artifacts(options.artifacts), bundle)
        print(f"{hidden.num_rows} items added and a first request answered: {wall:.1f} s ({cpu:.1f} s of CPU)\n")
        found = {rule: figures(ranks) for rule, ranks in ranks_among_new(bundle, cold).items()}
        title = f"{len(cold.targets)} users, {hidden.num_rows} new items"
        print(markdown_table([title, "Recall@10", "NDCG@10"], [[rule, *found[rule]] for rule in found]), "\n")
        rows = []
        for places in PLACES:
            both = [figures(ranks_in_lists(bundle, asked, places)) for asked in (cold, warm)]
            rows.append([str(places), *both[0], *both[1]])
        heads = [f"{name} {metric}" for name in ("new", "old") for metric in ("R@10", "NDCG@10")]
        print(markdown_table(["places for new items", *heads], rows), "\n")
        met = [any(bundle.index_of[item] >= bundle.trained for item in history) for history in warm.histories]
        rows_met = [row for row, own in enumerate(met) if own]
        some = Targets([warm.histories[row] for row in rows_met], [warm.targets[row] for row in rows_met])
        rows = [
            [name, *figures(ranks_in_lists(bundle, asked, 0))]
            for name, asked in (("left out", some), ("read as the nearest trained item", with_stand_ins(bundle, some)))
        ]
        print(markdown_table([f"new items in {len(some.targets)} histories", "R@10", "NDCG@10"], rows))
    return EXIT_OK


if __name__ == "__main__":
    as_command(lambda given: run())
