"""Neighbours are counts and content: compared with plain loops."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

from support.small import random_sequences, sequences_of
from unigrec.core.retrieval.cooccurrence import Cooccurrence, count_successors
from unigrec.core.retrieval.neighbour_ranking import DECAY, RECENT, NeighbourRanking, count_neighbours

ITEMS = 12


def training_parts(sequences) -> list[list[int]]:
    starts, ends = sequences.offsets[:-1], sequences.train_ends
    return [sequences.items[start:end].tolist() for start, end in zip(starts, ends, strict=True)]


def test_successors_are_counted_in_the_training_part_relative_to_the_most_frequent_one():
    sequences = random_sequences(60, ITEMS, 9)
    counts = Counter(pair for part in training_parts(sequences) for pair in itertools.pairwise(part))
    found = count_successors(sequences).toarray()
    for before in range(ITEMS):
        most = max((math.log1p(n) for (one, _), n in counts.items() if one == before), default=1.0)
        for after in range(ITEMS):
            assert found[before, after] == pytest.approx(math.log1p(counts[before, after]) / most)


def test_compressed_rows_hold_what_was_counted():
    sequences = random_sequences(60, ITEMS, 9)
    items = torch.tensor([3, 3, 0, 11])
    found = count_neighbours(sequences, torch.zeros(ITEMS, 2)).following(items)
    torch.testing.assert_close(found, torch.as_tensor(count_successors(sequences).toarray()[items]), atol=1e-3, rtol=0)


def test_held_out_items_are_not_counted():
    sequences = sequences_of([0, 1, 2, 3], items=4)  # 2 is for validation, 3 for the test
    assert count_successors(sequences).toarray().nonzero() == ([0], [1])


def test_an_item_is_alike_to_others_and_not_to_itself_and_one_without_content_to_none():
    embeddings = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    neighbours = count_neighbours(sequences_of([0, 1], items=4), embeddings)
    assert neighbours.alike(torch.tensor([0, 3])).tolist() == [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]


def test_a_history_is_near_to_what_its_last_three_items_are_near_to():
    sequences, generator = random_sequences(60, ITEMS, 9), torch.Generator().manual_seed(0)
    neighbours = count_neighbours(sequences, torch.randn(ITEMS, 5, generator=generator))
    follows = torch.as_tensor(count_successors(sequences).toarray()).half().float()
    together = torch.as_tensor(Cooccurrence(sequences).nearest.toarray()).half().float()
    alike = (neighbours.content @ neighbours.content.T).fill_diagonal_(0.0)
    found = neighbours.near(torch.tensor([[5, 2, 7, 2, 9], [4, 0, 0, 0, 0], [8, 3, 0, 0, 0]]), torch.tensor([5, 1, 2]))
    for row, (last, *earlier) in enumerate(([9, 2, 7], [4], [3, 8])):
        expected = {
            "follows": follows[last],
            "alike": alike[last],
            "follows_earlier": sum(
                (0.5**back * follows[item] for back, item in enumerate(earlier)), torch.zeros(ITEMS)
            ),
            "alike_earlier": sum((0.5**back * alike[item] for back, item in enumerate(earlier)), torch.zeros(ITEMS)),
            "together": sum(0.5**back * together[item] for back, item in enumerate([last, *earlier])),
        }
        for name, scores in expected.items():
            torch.testing.assert_close(getattr(found, name)[row], scores, atol=1e-6, rtol=1e-5, msg=f"{row} {name}")


def test_wanted_items_alone_get_what_the_whole_catalogue_would_give_them():
    """Some of the wanted items are in the histories, and one is wanted twice."""
    sequences, generator = random_sequences(60, ITEMS, 9), torch.Generator().manual_seed(0)
    neighbours = count_neighbours(sequences, torch.randn(ITEMS, 5, generator=generator))
    histories = torch.tensor([[5, 2, 7, 2, 9], [4, 0, 0, 0, 0], [8, 3, 0, 0, 0]]), torch.tensor([5, 1, 2])
    wanted = torch.tensor([9, 2, 0, 11, 9])
    for asked in (wanted, torch.stack([wanted, wanted.flip(0), wanted - 9 & 7])):
        for name, scores in neighbours.near(*histories, wanted=asked)._asdict().items():
            expected = getattr(neighbours.near(*histories), name).gather(1, asked.expand(3, -1))
            torch.testing.assert_close(scores, expected, atol=1e-6, rtol=1e-5, msg=name)


def test_the_ranking_weighs_recent_items_most_and_adds_what_followed_the_last():
    sequences = random_sequences(40, ITEMS, 9)
    embeddings = torch.randn(ITEMS, 5, generator=torch.Generator().manual_seed(0))
    ranking = NeighbourRanking(count_neighbours(sequences, embeddings), Cooccurrence(sequences))
    users = sequences.evaluation_users()
    histories = sequences.held_out(users, "test", 20)
    follows, together = count_successors(sequences).toarray(), Cooccurrence(sequences).nearest.toarray()
    unit = torch.nn.functional.normalize(embeddings, dim=1).numpy()
    cosine = unit @ unit.T  # content is kept in half precision
    np.fill_diagonal(cosine, 0.0)
    found = ranking.scores(histories)
    for row, (items, length) in enumerate(zip(histories.items, histories.lengths, strict=True)):
        recent = items[:length][::-1][:RECENT]
        expected = follows[recent[0]].copy()
        for back, item in enumerate(recent):
            expected += DECAY**back / len(recent) * (cosine[item] + together[item]) / 2
        torch.testing.assert_close(found[row], torch.as_tensor(expected, dtype=torch.float32), atol=1e-3, rtol=1e-3)
