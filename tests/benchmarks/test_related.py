"""Tests of the benchmark of complements: which pairs are held out, and when one is found."""

from __future__ import annotations

import numpy as np
import torch
from benchmarks.quality.steps import Data
from benchmarks.related import found_at, held_out_pairs, rankings

from support.small import random_sequences, sequences_of
from unigrec.base.paths import Artifacts
from unigrec.core.sequences import SECONDS_PER_DAY


def test_a_pair_is_the_last_two_items_of_a_user_on_one_day_if_days_tell():
    sequences = sequences_of([0, 1, 2, 3], [0, 1, 2, 2], [3, 2, 1], [0, 1], items=4)
    everyone = held_out_pairs(sequences)
    assert (everyone.given.tolist(), everyone.wanted.tolist()) == ([2, 2], [3, 1])
    days = np.array([0, 1, 2, 2, *range(4), *range(3), 0, 1])
    of_one_day = held_out_pairs(sequences._replace(timestamps=days * SECONDS_PER_DAY))
    assert (of_one_day.given.tolist(), of_one_day.wanted.tolist()) == ([2], [3])


def test_every_ranking_gives_items_and_a_pair_is_found_if_the_later_one_is_among_them():
    sequences = random_sequences(200, 12, 9)
    data = Data(Artifacts(), sequences, torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), {})
    codes, pairs = np.arange(24).reshape(12, 2) % 3, held_out_pairs(sequences)
    for name, lists in rankings(data, codes).items():
        hits = found_at(lists, pairs)
        expected = [later in lists(earlier) for earlier, later in zip(*pairs, strict=True)]
        assert hits.tolist() == expected, name
