"""Audiences and a shop's own ranking model, measured on a tiny rung."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from benchmarks import audiences, ranker
from benchmarks.quality import __main__ as quality
from support.small import random_sequences
from support.tiny_ladder import tiny_arguments, tiny_artifacts


@pytest.mark.slow
def test_the_first_tenth_of_an_audience_is_compared_with_all_users(tmp_path, monkeypatch, capsys):
    artifacts, out = tiny_artifacts(tmp_path), tmp_path / "out"
    assert quality.run(tiny_arguments(artifacts, out, "--rungs", "M14")) == 0
    (rung,) = (out / "seed-1/M14").iterdir()
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["audiences", "--artifacts", str(artifacts), str(rung)])
    assert audiences.run() == 0
    text = capsys.readouterr().out
    everybody, first = map(float, re.findall(r"all users ([\d.]+), first tenth ([\d.]+)", text)[0])
    assert 0.0 < everybody < 1.0
    assert 0.0 <= first <= 1.0


def test_pairs_of_the_ranker_are_neighbours_in_a_sequence():
    sequences = random_sequences(20, 30, 8)
    before, after = ranker.pairs(sequences, "train")
    own = [
        (sequences.items[place - 1], sequences.items[place])
        for start, end in zip(sequences.offsets[:-1], sequences.train_ends, strict=True)
        for place in range(start + 1, end)
    ]
    assert list(zip(before, after, strict=True)) == own
    before, after = ranker.pairs(sequences, "test")
    ends = sequences.offsets[sequences.evaluation_users() + 1]
    assert np.array_equal(after, sequences.items[ends - 1])
    assert np.array_equal(before, sequences.items[ends - 2])


def test_drawn_items_follow_the_same_items_and_are_no_others_than_those_that_came():
    before, after = np.array([1, 2]), np.array([5, 6])
    rows = ranker.with_negatives(before, after, np.random.default_rng(0))
    assert rows[0].tolist() == [1, 2, *[1] * ranker.NEGATIVES, *[2] * ranker.NEGATIVES]
    assert set(rows[1].tolist()) <= {5, 6}
    assert rows[2].tolist() == [1.0, 1.0, *[0.0] * (2 * ranker.NEGATIVES)]
