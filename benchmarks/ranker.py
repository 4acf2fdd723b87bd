"""`python -m benchmarks.ranker`: what identifiers are worth as features of a shop's own ranking model.

A small LightGBM model tells the item that came next from drawn ones, by features of the item and of the item before:
hashed ids, prefixes of the identifiers, or both; their training counts too. AUC on test items. docs/answers.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.__main__ import as_command
from benchmarks.quality.steps import finished_rung, load_data
from unigrec.base.errors import EXIT_OK, UnigrecError
from unigrec.base.markdown import markdown_table
from unigrec.core.identifiers.collisions import group_of
from unigrec.core.retrieval.lookalike import auc
from unigrec.core.sequences import Sequences
from unigrec.pipeline.outputs import load_codes

BUCKETS = 256  # of hashed ids
NEGATIVES = 4  # drawn items per item that came next
FEW = 5  # training interactions
SETTINGS = {"n_estimators": 200, "num_leaves": 31, "learning_rate": 0.05, "n_jobs": 1, "verbose": -1}


def pairs(sequences: Sequences, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The item before and the item that came next, of the training part or of the test."""
    if split == "train":
        positions = sequences.windows()
        return sequences.items[positions - 1], sequences.items[positions]
    test = sequences.held_out(sequences.evaluation_users(), "test", 1)
    return test.items[:, 0], test.targets


def with_negatives(
    before: np.ndarray, after: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of (before, item, label); drawn items are as popular as those that came next, so that counts tell little."""
    drawn = generator.choice(after, len(after) * NEGATIVES)
    labels = np.r_[np.ones(len(after)), np.zeros(len(drawn))]
    return np.r_[before, np.repeat(before, NEGATIVES)], np.r_[after, drawn], labels


def columns(ids: np.ndarray, prefixes: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Features (N, F) of an item, by kind; all but the last column are categories."""
    seen = np.log1p(counts)[:, None]
    return {
        "hashed ids": np.column_stack([ids, seen]),
        "prefixes": np.column_stack([prefixes, seen]),
        "both": np.column_stack([ids, prefixes, seen]),
    }


def run() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.ranker", description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True, help="a project's artifacts folder")
    parser.add_argument("rung", type=Path, help="a finished rung of the ladder: OUT/seed-1/M14/KEY")
    options = parser.parse_args()
    try:
        from lightgbm import LGBMClassifier
    except ImportError as error:
        raise UnigrecError(
            "LightGBM is not installed, and no part of the project needs it: pip install lightgbm"
        ) from error
    data = load_data(options.artifacts)
    sequences, codes = data.sequences, load_codes(finished_rung(options.rung, data))
    generator = np.random.default_rng(1)
    counts = sequences.train_counts()
    ids = generator.permutation(len(codes))[:, None] % BUCKETS
    prefixes = np.column_stack([codes[:, 0], group_of(codes[:, :2])])
    train = with_negatives(*pairs(sequences, "train"), generator)
    test = with_negatives(*pairs(sequences, "test"), generator)
    few = counts[test[1]] < FEW
    rows = []
    for name, features in columns(ids, prefixes, counts).items():
        width = features.shape[1] - 1
        categories = [*range(width), *range(width + 1, 2 * width + 1)]

        def table(split: tuple[np.ndarray, ...], features: np.ndarray = features) -> Any:
            return np.column_stack([features[split[0]], features[split[1]]])

        model = LGBMClassifier(**SETTINGS, random_state=1)
        model.fit(table(train), train[2], categorical_feature=categories)
        scores = model.predict_proba(table(test))[:, 1]
        rows.append([name, f"{auc(scores, test[2]):.4f}", f"{auc(scores[few], test[2][few]):.4f}"])
    print(f"{int(test[2].sum())} test items, {int(test[2][few].sum())} of them with fewer than {FEW} interactions\n")
    print(markdown_table(["features of the item and of the one before", "AUC", f"below {FEW} interactions"], rows))
    return EXIT_OK


if __name__ == "__main__":
    as_command(lambda given: run())
