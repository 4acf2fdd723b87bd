"""Sampled softmax: with every item in the step it is the full loss, and over many draws its gradient is that one's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support.small import sequences_of
from support.tiny_training import ITEMS, tiny_params
from unigrec.core.models.sasrec import SASRec
from unigrec.core.training.sampled_softmax import Sampler, StepItems
from unigrec.core.training.teacher import new_teacher, next_items

BATCH = torch.tensor([[3, 4, 5, 3, 6], [7, 8, 7, 0, 0], [3, 9, 0, 0, 0]]), torch.tensor([5, 3, 2])


def model_of(repeat_bias: bool = True) -> SASRec:
    torch.manual_seed(0)
    model = new_teacher(ITEMS, tiny_params(teacher={"repeat_bias": repeat_bias}).teacher, content_dim=3).eval()
    model.content = torch.randn(ITEMS, 3)
    torch.nn.init.normal_(model.item_embedding.weight)
    if model.repeat_bias is not None:
        torch.nn.init.normal_(model.repeat_bias.weight)
    return model


def gradients(model: SASRec, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {
        name: p.grad.to_dense() if p.grad.is_sparse else p.grad
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def every_item() -> StepItems:
    return StepItems(torch.arange(ITEMS), torch.zeros(ITEMS), torch.full((ITEMS,), 1 / ITEMS))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("repeat_bias", [True, False])
def test_with_every_item_drawn_as_often_as_expected_loss_and_gradients_are_those_of_the_whole_catalogue(
    smoothing, repeat_bias
):
    model = model_of(repeat_bias)
    weights = torch.tensor([1.0, 0.5, 0.5, 1.0, 2.0, 0.0, 1.0])
    whole = next_items(model, *BATCH).weighted_loss(weights, smoothing)
    sampled = next_items(model, *BATCH, every_item()).weighted_loss(weights, smoothing)
    torch.testing.assert_close(whole, sampled)
    expected, found = gradients(model, whole), gradients(model, sampled)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradient, found[name], msg=name)


def test_an_item_of_the_user_counts_once_whatever_was_drawn_and_any_other_as_its_weight():
    model = model_of()
    log_weights = torch.zeros(ITEMS).index_fill_(0, torch.tensor([3, 4, 5, 6]), 5.0)  # the first user's own
    drawn = every_item()._replace(log_weights=log_weights)
    first = BATCH[0][:1], BATCH[1][:1]
    torch.testing.assert_close(next_items(model, *first, drawn).loss(), next_items(model, *first).loss())
    third = BATCH[0][2:, :2], BATCH[1][2:]  # has item 3, and not the others
    found = next_items(model, *third)
    logits = found.hidden @ model.item_table().T
    logits[0].index_add_(0, found.bonus.items[0], found.bonus.values[0])
    logits[0, [4, 5, 6]] += 5.0
    torch.testing.assert_close(next_items(model, *third, drawn).loss(), logits.logsumexp(1)[0] - logits[0, 9])


def test_on_average_over_many_draws_each_item_counts_once():
    generator = np.random.default_rng(5)
    users = [generator.integers(0, ITEMS, 4).tolist() for _ in range(30)]
    sequences = sequences_of(*[[*user, 0, 0] for user in users], items=ITEMS)
    pieces = sequences.segments(3)
    sampler = Sampler(sequences, pieces, negatives=6, seed=5)
    total = np.zeros(ITEMS)
    for step in range(400):
        chosen = generator.choice(30, 8, replace=False)
        drawn = sampler.draw(*sequences.teacher_batch(pieces[chosen]), step, torch.device("cpu"))
        own = sequences.teacher_batch(pieces[chosen[:1]])[0][0]  # as the first user sees it: own items are exact
        others = ~np.isin(drawn.items, own)
        total[drawn.items[others]] += drawn.log_weights.exp().numpy()[others]
        total[np.unique(own)] += 1.0
    assert np.abs(total / 400 - 1.0).max() < 0.2
    assert abs(total.mean() / 400 - 1.0) < 0.04  # the user itself is among the 30 that shares are counted over


def test_over_many_draws_the_gradient_is_that_of_the_whole_catalogue():
    model = model_of()
    users = [np.random.default_rng(user).integers(0, ITEMS, 6).tolist() for user in range(20)]
    sequences = sequences_of(*users, items=ITEMS)
    pieces = sequences.segments(6)
    sampler = Sampler(sequences, pieces, negatives=200, seed=3)
    batch = sequences.teacher_batch(pieces[:4])
    read = tuple(torch.as_tensor(part) for part in batch)
    expected = gradients(model, next_items(model, *read).loss())
    draws = (sampler.draw(*batch, step, torch.device("cpu")) for step in range(60))
    losses = [next_items(model, *read, drawn).loss() for drawn in draws]
    found = gradients(model, torch.stack(losses).mean())
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 0.1 * gradient.norm() + 1e-6, name


def test_a_step_reads_the_content_of_its_candidates_alone_and_gives_a_gradient_to_their_rows_alone():
    model = model_of()
    drawn = StepItems(torch.tensor([0, 3, 4, 5, 6, 7, 8, 9, 20]), torch.zeros(9), torch.full((9,), 1 / 9))
    model.content[torch.tensor([1, 2, 10, 23])] = torch.nan
    loss = next_items(model, *BATCH, drawn).loss()
    loss.backward()
    gradient = model.item_embedding.weight.grad.coalesce()
    assert gradient.indices()[0].tolist() == drawn.items.tolist()
    assert torch.isfinite(loss)


def test_the_draws_are_a_function_of_seed_and_step():
    sequences = sequences_of([1, 2, 3, 4, 5], [3, 2, 1, 6, 7], items=1000)
    pieces = sequences.segments(5)
    batch = sequences.teacher_batch(pieces)

    def drawn(seed: int, step: int) -> list[int]:
        return Sampler(sequences, pieces, 20, seed).draw(*batch, step, torch.device("cpu")).items.tolist()

    assert drawn(1, 2) == drawn(1, 2)
    assert len({tuple(drawn(seed, step)) for seed in (1, 2) for step in (1, 2)}) == 4
