"""Slices of the users, by hand."""

from __future__ import annotations

import numpy as np

from support.small import random_sequences, sequences_of
from unigrec.core.evaluation.slices import popularity_thirds, slices


def test_thirds_split_the_catalogue_by_popularity():
    assert popularity_thirds(np.array([9, 1, 5, 2, 8, 4])).tolist() == [2, 0, 1, 0, 2, 1]
    assert popularity_thirds(np.zeros(4, np.int64)).tolist() == [0, 0, 0, 0]


def test_each_family_of_slices_is_a_partition_of_the_users():
    sequences = random_sequences(80, 25, 16)
    users = sequences.evaluation_users()
    found = slices(sequences, users, {})
    for family in ("target popularity", "history"):
        masks = np.stack([mask for name, mask in found.items() if name.startswith(family)])
        assert len(masks) == 3
        assert (masks.sum(0) == 1).all()
    unseen, cold = found["cold target: unseen in training"], found["cold target: fewer than 5 training interactions"]
    assert (cold | ~unseen).all()


def test_slices_by_hand():
    sequences = sequences_of([0, 0, 0, 0, 0, 1, 2, 0], [0, 0, 1, 2, 1], [0, 0, 2, 3], items=4)
    found = slices(sequences, np.array([0, 1, 2]), {})  # training counts: 9, 2, 0, 0; test items: 0, 1, 3
    assert found["cold target: unseen in training"].tolist() == [False, False, True]
    assert found["cold target: fewer than 5 training interactions"].tolist() == [False, True, True]
    assert found["history: up to 5 items"].tolist() == [False, True, True]
    assert found["history: 6 to 10 items"].tolist() == [True, False, False]
    assert found["target popularity: highest third of items"].tolist() == [True, False, False]


def test_with_timestamps_targets_of_the_same_day_are_told_from_later_ones():
    sequences = sequences_of([0, 1, 2], [0, 1, 3], items=4)
    day = 86400
    found = slices(sequences._replace(timestamps=np.array([0, 5, day - 1, 0, day - 1, day])), np.array([0, 1]), {})
    assert found["target on the day of the item before"].tolist() == [True, False]
    assert found["target on a later day"].tolist() == [False, True]
    for told in (sequences, sequences._replace(timestamps=np.arange(6))):
        assert not any("day" in name for name in slices(told, np.array([0, 1]), {}))


def test_slices_of_a_column_are_its_most_frequent_values_the_others_and_none():
    sequences = sequences_of(*([0, 0, user % 25] for user in range(50)), [0, 0, 25], [0, 0, 26], items=27)
    values = [{f"v{item:02}"} for item in range(25)] + [{"v00", "v24"}, set()]
    found = slices(sequences, np.arange(52), {"domain": values})
    own = {name: mask for name, mask in found.items() if name.startswith("target domain")}
    sizes = {name.removeprefix("target domain"): int(mask.sum()) for name, mask in own.items()}
    assert list(sizes.items())[:3] == [(": v00", 3), (": v24", 3), (": v01", 2)]  # a target of two is in both
    assert (len(sizes), sizes[", other"], sizes[", no value"]) == (22, 10, 1)
    assert np.flatnonzero(own["target domain: v00"]).tolist() == [0, 25, 50]
    assert np.stack(list(own.values())).any(0).all()
