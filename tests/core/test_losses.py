"""Each loss is compared with a hand computation, a plain loop or torch's loss."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from support.small import few, small_tokenizer
from unigrec.core.losses import (
    Bonus,
    catalogue_cross_entropy,
    contrastive_loss,
    recommendation_loss,
    reconstruction_loss,
    symmetric_kl,
    uniformity_loss,
)


def log_assignments(rows: int, levels: int, codewords: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, levels, codewords, generator=generator).mul(3).log_softmax(-1)


def test_recommendation_loss_is_the_mean_over_positions_of_plain_cross_entropy():
    torch.manual_seed(0)
    logits, codes = [torch.randn(5, 4), torch.randn(5, 4), torch.randn(5, 2)], torch.tensor([[3, 0, 1]] * 5)
    positions = torch.stack([F.cross_entropy(logits[p], codes[:, p]) for p in range(3)])
    torch.testing.assert_close(recommendation_loss(logits, codes).mean(), positions.mean())


def test_recommendation_loss_of_uniform_logits_is_the_log_of_the_range():
    loss = recommendation_loss([torch.zeros(1, 4), torch.zeros(1, 2)], torch.tensor([[2, 1]]))
    torch.testing.assert_close(loss, torch.tensor([(math.log(4) + math.log(2)) / 2]))


def test_reconstruction_loss_by_hand():
    loss = reconstruction_loss(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [3.0, 1.0]]))
    assert loss.tolist() == [2.0, 5.0]


def test_uniformity_by_hand():
    usage = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.25, 0.25, 0.25, 0.25]])
    by_hand = 0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25) + math.log(0.25)
    torch.testing.assert_close(uniformity_loss(usage), torch.tensor(by_hand))


@few
@given(st.integers(0, 10_000))
def test_uniformity_is_least_at_even_usage(seed: int):
    usage = log_assignments(1, 2, 8, seed).exp()[0]
    assert uniformity_loss(usage) >= -2 * math.log(8) - 1e-5
    assert uniformity_loss(torch.full((2, 8), 1 / 8)).item() == pytest.approx(-2 * math.log(8), rel=1e-6)


def test_uniformity_gradient_pushes_usage_from_busy_codewords_to_idle_ones():
    logits = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True)
    uniformity_loss(logits.softmax(-1)).backward()
    assert logits.grad[0, 0] > 0  # a step of descent lowers the busiest
    assert logits.grad[0, 2] < 0
    moved = (logits - 0.5 * logits.grad).softmax(-1)
    assert moved.max() < logits.softmax(-1).max()


def test_uniformity_gradient_is_finite_where_codewords_are_dead():
    usage = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    uniformity_loss(usage).backward()
    assert torch.isfinite(usage.grad).all()
    assert usage.grad[0, 1] < 0 < usage.grad[0, 0]  # more weight on a dead codeword lowers the loss
    tokenizer = small_tokenizer()
    tokenizer.codebooks.data[:, 1:] += 1000.0  # probabilities underflow to zero exactly
    uniformity_loss(tokenizer.quantize_soft(torch.randn(6, 4), 0.001).probabilities.mean(0)).backward()
    assert torch.isfinite(tokenizer.codebooks.grad).all()


@few
@given(st.integers(0, 10_000))
def test_symmetric_kl_equals_the_sum_of_both_divergences_of_torch(seed: int):
    log_p, log_q = log_assignments(4, 3, 5, seed), log_assignments(4, 3, 5, seed + 1)
    p, q = Categorical(logits=log_p), Categorical(logits=log_q)
    expected = (kl_divergence(p, q) + kl_divergence(q, p)).sum(-1)
    torch.testing.assert_close(symmetric_kl(log_p, log_q), expected, rtol=1e-4, atol=1e-5)


@few
@given(st.integers(0, 10_000))
def test_symmetric_kl_is_symmetric_positive_and_zero_only_for_equals(seed: int):
    log_p, log_q = log_assignments(4, 3, 5, seed), log_assignments(4, 3, 5, seed + 1)
    assert torch.equal(symmetric_kl(log_p, log_q), symmetric_kl(log_q, log_p))
    assert (symmetric_kl(log_p, log_q) > 1e-3).all()
    assert torch.equal(symmetric_kl(log_p, log_p), torch.zeros(4))


def test_symmetric_kl_by_hand_and_its_gradient_pulls_the_two_together():
    p, q = torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[0.9, 0.1]]])
    by_hand = -0.4 * math.log(0.5 / 0.9) + 0.4 * math.log(0.5 / 0.1)
    torch.testing.assert_close(symmetric_kl(p.log(), q.log()), torch.tensor([by_hand]))
    logits = torch.zeros(1, 1, 2, requires_grad=True)
    symmetric_kl(logits.log_softmax(-1), q.log()).sum().backward()
    assert logits.grad[0, 0, 0] < 0 < logits.grad[0, 0, 1]  # descent moves weight to the likelier codeword of q


def test_symmetric_kl_is_finite_and_positive_for_cold_assignments_of_far_latents():
    tokenizer = small_tokenizer()
    history = (30 * torch.randn(8, 4)).requires_grad_()
    teacher = (-30 * torch.randn(8, 4)).requires_grad_()
    p, q = (tokenizer.quantize_soft(latent, temperature=0.001).log_probabilities for latent in (history, teacher))
    loss = symmetric_kl(p, q)
    loss.sum().backward()
    assert (loss >= 0).all()
    assert torch.isfinite(loss).all()
    for gradient in (history.grad, teacher.grad, tokenizer.codebooks.grad):
        assert torch.isfinite(gradient).all()


def looped_contrast(hidden: Tensor, teacher: Tensor, items: list[int], temperature: float) -> Tensor:
    """InfoNCE both ways, sample by sample, with one term per other distinct item of the batch.

    An item that is the target of several samples has several states: its term is their mean.
    """
    rows = range(len(items))
    hidden, teacher = F.normalize(hidden, dim=-1), F.normalize(teacher, dim=-1)
    losses = []
    for row in rows:
        own = torch.exp(hidden[row] @ teacher[row] / temperature)
        others = sorted(set(items) - {items[row]})
        holders = [[other for other in rows if items[other] == item] for item in others]
        teachers = [torch.exp(hidden[row] @ teacher[held[0]] / temperature) for held in holders]
        states = [torch.stack([torch.exp(teacher[row] @ hidden[h] / temperature) for h in held]) for held in holders]
        losses.append(-torch.log(own / (own + sum(teachers))) - torch.log(own / (own + sum(s.mean() for s in states))))
    return torch.stack(losses).mean()


@few
@given(st.integers(0, 10_000), st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_contrast_equals_a_plain_loop_over_distinct_items(seed: int, items: list[int]):
    torch.manual_seed(seed)
    hidden, table = torch.randn(len(items), 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    found = contrastive_loss(hidden, table[items], torch.tensor(items), 0.07)
    torch.testing.assert_close(found, looped_contrast(hidden, table[items], items, 0.07))


@few
@given(st.integers(0, 10_000), st.lists(st.integers(0, 4), min_size=2, max_size=8))
def test_a_weight_in_the_contrast_is_a_factor_and_without_weight_a_sample_is_not_there(seed: int, items: list[int]):
    torch.manual_seed(seed)
    hidden, table = torch.randn(len(items), 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    teacher, targets = table[items], torch.tensor(items)
    plain = contrastive_loss(hidden, teacher, targets, 0.07)
    even = contrastive_loss(hidden, teacher, targets, 0.07, weights=torch.full((len(items),), 2.0, dtype=torch.float64))
    torch.testing.assert_close(even, 2.0 * plain)
    first = torch.arange(len(items)) < 1
    rest = contrastive_loss(hidden[1:], teacher[1:], targets[1:], 0.07)
    found = contrastive_loss(hidden, teacher, targets, 0.07, weights=(~first).double())
    torch.testing.assert_close(found, rest * (len(items) - 1) / len(items))


def test_contrast_of_a_repeated_target_alone_is_zero():
    teacher = torch.randn(1, 6).expand(4, -1)
    loss = contrastive_loss(torch.randn(4, 6), teacher, torch.tensor([7, 7, 7, 7]), 0.07)
    torch.testing.assert_close(loss, torch.tensor(0.0))


def test_contrast_counts_a_repeated_target_once_among_the_negatives_of_others():
    cosine = torch.tensor([[0.9, 0.1], [0.3, 0.5]])  # of two states with two teachers
    teacher = torch.eye(3)[:2]
    hidden = torch.cat([cosine, (1 - cosine.square().sum(1, keepdim=True)).sqrt()], dim=1)
    weight = cosine.exp()  # at contrast temperature 1

    def both_ways(row: int) -> Tensor:
        other = 1 - row
        own = weight[row, row]
        return -(own / (own + weight[row, other])).log() - (own / (own + weight[other, row])).log()

    for rows in ([0, 1], [0, 1, 1, 1]):  # the second item's own loss is there three times, and no term is larger
        expected = torch.stack([both_ways(row) for row in rows]).mean()
        torch.testing.assert_close(contrastive_loss(hidden[rows], teacher[rows], torch.tensor(rows), 1.0), expected)


def test_contrast_is_smaller_when_states_point_to_their_own_teacher():
    teacher = torch.eye(4)
    items = torch.arange(4)
    assert contrastive_loss(teacher, teacher, items, 0.07) < 1e-4
    assert contrastive_loss(teacher.roll(1, 0), teacher, items, 0.07) > 10


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_catalogue_cross_entropy_equals_torchs_in_values_and_gradients(smoothing):
    torch.manual_seed(0)
    rows, items, width = 300, 50, 8  # more rows than are computed at once
    targets, columns = torch.randint(0, items, (rows,)), torch.randint(0, items, (rows, 3))
    given = torch.randn(rows, width), torch.randn(items, width), torch.randn(rows, 3)
    results = []
    for loss in (
        lambda h, w, b: catalogue_cross_entropy(h, w, targets, smoothing, bonus=Bonus(columns, b)),
        lambda h, w, b: F.cross_entropy((h @ w.T).scatter_add(1, columns, b), targets, label_smoothing=smoothing),
    ):
        h, w, b = (tensor.clone().requires_grad_() for tensor in given)
        (3.0 * loss(h, w, b)).backward()
        results.append((loss(h, w, b).detach(), h.grad, w.grad, b.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
