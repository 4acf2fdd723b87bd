"""`python -m benchmarks.audiences`: do those whom an audience names first buy the item?

For each of the most bought items: all test users, ranked by how likely the item is to come next; the share of the first
tenth whose test item it is, against the share of all users. docs/answers.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.quality.__main__ import as_command
from benchmarks.quality.steps import finished_rung, load_data
from unigrec.base.errors import EXIT_OK
from unigrec.base.process import keep_quiet
from unigrec.core.retrieval.dense import DenseRetriever
from unigrec.core.retrieval.prefix_tree import PrefixTree
from unigrec.core.sequences import chunks_by_length
from unigrec.pipeline.outputs import load_codes, load_teacher

ITEMS, SHARE, USERS_AT_ONCE = 50, 0.1, 256


def run() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.audiences", description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True, help="a project's artifacts folder")
    parser.add_argument("rung", type=Path, help="a finished rung of the ladder: OUT/seed-1/M14/KEY")
    options = parser.parse_args()
    keep_quiet()
    data = load_data(options.artifacts)
    artifacts, sequences = finished_rung(options.rung, data), data.sequences
    dense = DenseRetriever(load_teacher(artifacts), PrefixTree(load_codes(artifacts)), torch.device("cpu"))
    users = sequences.evaluation_users()
    targets = sequences.held_out(users, "test", 1).targets
    most = np.argsort(-sequences.train_counts(), kind="stable")[:ITEMS]
    scores = np.empty((len(users), len(most)))
    for rows in chunks_by_length(sequences.lengths[users], USERS_AT_ONCE):
        histories = sequences.held_out(users[rows], "test", dense.history)
        scores[rows] = dense.scores(histories.items, histories.lengths)[:, most].numpy()
    first = np.argsort(-scores, axis=0, kind="stable")[: round(SHARE * len(users))]
    hits, base = (targets[first] == most).mean(0), (targets[:, None] == most).mean(0)
    found = (targets[first] == most).sum() / (targets[:, None] == most).sum()
    print(f"{len(users)} users, the {len(most)} most bought items of the training part, by the dense part")
    times = hits.mean() / base.mean()
    print(f"share that buys, all users {base.mean():.4f}, first tenth {hits.mean():.4f}: {times:.1f} times")
    median = np.median((hits / np.maximum(base, 1e-12))[base > 0])
    print(f"of all buyers, {found:.1%} are in the first tenth; median item {median:.1f} times")
    return EXIT_OK


if __name__ == "__main__":
    as_command(lambda given: run())
