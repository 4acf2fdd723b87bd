"""The teacher's training: its loss counts real positions only, and it learns what follows what."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from support.tiny_training import CPU, ITEMS, tiny_embeddings, tiny_params, tiny_run, tiny_sequences
from unigrec.base.errors import TrainingError
from unigrec.core.retrieval.dense import teacher_scores
from unigrec.core.training.teacher import new_teacher, next_item_loss, train_teacher, validation_metrics


def run(seed: int = 7, **changes):
    params = tiny_params(teacher=changes).teacher
    return train_teacher(tiny_sequences(), tiny_embeddings(), params, run=tiny_run(seed))


def test_the_loss_is_the_cross_entropy_of_every_next_item_and_of_no_padding():
    model = new_teacher(ITEMS, tiny_params().teacher).eval()
    items, lengths = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]), torch.tensor([4, 2])
    each = []
    for row, length in zip(items, lengths, strict=True):
        for end in range(1, int(length)):
            # The loss places a sequence's last input last, so shorter prefixes are read from the whole sequence.
            hidden = model(row[None, : length - 1], length[None] - 1)[0, end - 1]
            each.append(F.cross_entropy(model.scores(hidden), row[end]))
    torch.testing.assert_close(next_item_loss(model, items, lengths), torch.stack(each).mean())


def test_it_learns_what_follows_what_and_keeps_its_best_weights():
    trained = run(epochs=40, patience=40, lr=0.01, content=False)  # content gives most of it away at once
    found = [row["validation_ndcg_at_10"] for row in trained.history]
    assert max(found) > 2 * found[0]
    assert trained.history[-1]["loss"] < 0.7 * trained.history[0]["loss"]
    assert validation_metrics(trained.model, tiny_sequences(), CPU)["validation_ndcg_at_10"] == max(found)


@pytest.mark.parametrize("architecture", ["sasrec", "bsarec"])
def test_content_helps_from_the_start_and_is_folded_into_the_embeddings(architecture):
    with_content, without = (
        run(epochs=2, content=content, architecture=architecture, filter_components=2) for content in (True, False)
    )
    assert with_content.history[0]["validation_ndcg_at_10"] > without.history[0]["validation_ndcg_at_10"]
    assert set(with_content.model.state_dict()) == set(without.model.state_dict())
    best = max(row["validation_ndcg_at_10"] for row in with_content.history)
    assert validation_metrics(with_content.model, tiny_sequences(), CPU)["validation_ndcg_at_10"] == best


def test_it_stops_when_validation_no_longer_rises():
    found = [row["validation_ndcg_at_10"] for row in run(epochs=200, patience=2, lr=0.02).history]
    assert len(found) < 200
    assert max(found[-2:]) <= max(found[:-2])


def test_same_seed_same_bits():
    first, second, other = run(), run(), run(seed=8)
    weights = first.model.state_dict()
    assert first.history == second.history
    assert all(torch.equal(weights[name], value) for name, value in second.model.state_dict().items())
    assert other.history != first.history


def test_scores_are_those_of_the_last_item_alone():
    model = new_teacher(ITEMS, tiny_params().teacher)
    items = np.array([[3, 4, 5], [3, 4, 0]])
    padded = teacher_scores(model, items, np.array([3, 2]), device=CPU)
    alone = teacher_scores(model, items[1:, :2], np.array([2]), device=CPU)
    torch.testing.assert_close(padded[1:], alone)


def test_a_learning_rate_that_blows_up_says_so():
    with pytest.raises(TrainingError, match=r"teacher: .*not finite"):
        run(lr=1e30, weight_decay=1e30)
