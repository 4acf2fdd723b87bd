"""Answers about many users: who is like the seeds, and which kinds there are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support.tiny_model import item_ids
from unigrec.base.errors import UnigrecError
from unigrec.core.retrieval.segments import adjusted_rand
from unigrec.serving import users
from unigrec.serving.bundle import Bundle

NAMES = item_ids()
EVEN, ODD = NAMES[0::2], NAMES[1::2]


@pytest.fixture
def bundle(pristine, monkeypatch) -> Bundle:
    """A bundle whose teacher's state tells the share of items with an odd number, and how long a history is."""

    def states(_, histories):
        return torch.tensor([[np.mean([item % 2 for item in own]), 0.01 * len(own)] for own in histories]).float()

    monkeypatch.setattr(users, "user_states", states)
    return Bundle.load(pristine)


def drawn(names: list[str], count: int) -> list[list[str]]:
    generator = np.random.default_rng(0)
    return [generator.choice(names, 3).tolist() for _ in range(count)]


def test_lookalikes_are_the_others_who_are_like_the_seeds(bundle):
    others = [["gone"], *drawn(EVEN, 12), *drawn(ODD, 12)]
    answer = bundle.lookalike([*drawn(ODD, 25), []], others, k=12)
    assert {user.row for user in answer.users} == set(range(13, 25))
    assert [user.score for user in answer.users] == sorted((user.score for user in answer.users), reverse=True)
    assert (answer.seeds, answer.unread) == (25, 2)
    assert 0.6 < answer.auc < 0.85  # half of the others are exactly like the seeds


def test_too_few_seeds_or_others_tell_nothing(bundle):
    with pytest.raises(UnigrecError, match="19 of the 20 seeds have a history, and 20 other users"):
        bundle.lookalike([*drawn(ODD, 19), ["gone"]], drawn(EVEN, 20))


def test_planted_kinds_are_found_and_told_by_their_items(bundle):
    histories = [*drawn(EVEN, 30), ["gone"], *drawn(ODD, 20)]
    answer = bundle.segments(histories, k=2, parts=2)
    found = [name and name.split(".")[0] for name in answer.of_histories]
    assert found[30] is None
    assert adjusted_rand(np.array([name == "2" for name in found if name]), np.arange(50) >= 30) == 1.0
    first, second = (next(one for one in answer.segments if one.segment == name) for name in ("1", "2"))
    assert (first.users, second.users, first.share) == (30, 20, 0.6)
    assert {item.item_id for item in first.items} <= set(EVEN)
    assert all(item.lift == pytest.approx(50 / 30) for item in first.items)
    assert answer.stability == 1.0
    with pytest.raises(UnigrecError, match="50 users have an item of the catalogue; 6 segments need at least 60"):
        bundle.segments(histories, k=6)


def test_histories_without_a_title_s_word_have_no_telling_words(bundle):
    """The first item has no title, and numbers are no words."""
    answer = bundle.segments([[NAMES[0]]] * 20, k=2)
    assert [segment.words for segment in answer.segments if segment.segment == "1"] == [()]
