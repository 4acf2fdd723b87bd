"""The heads for fields: hand-computed losses, and places that do not count."""

from __future__ import annotations

import math

import torch

from unigrec.core.training.fields import FieldHeads

BRANDS = torch.tensor([[0], [1], [-1]])
CATEGORIES = torch.tensor([[0, 2], [1, -1], [2, -1]])


def heads(*fields: torch.Tensor) -> FieldHeads:
    """Heads whose logits are the state, so that a state of log-probabilities is the prediction."""
    made = FieldHeads(fields, 3)
    for head in made.heads:
        with torch.no_grad():
            head.weight.copy_(torch.eye(3)[: head.out_features])
            head.bias.zero_()
    return made


def test_the_loss_is_the_cross_entropy_of_the_next_item_s_class():
    states = torch.tensor([[0.75, 0.25, 9.0], [0.5, 0.5, 9.0]]).log()
    found = heads(BRANDS)(states, torch.tensor([1, 0]))
    assert math.isclose(found.item(), -(math.log(0.25) + math.log(0.5)) / 2, rel_tol=1e-6)


def test_an_item_with_several_classes_wants_equal_shares_of_them():
    states = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]).log()
    found = heads(CATEGORIES)(states, torch.tensor([0, 2]))
    first, second = -(math.log(0.5) + math.log(0.25)) / 2, -math.log(0.25)
    assert math.isclose(found.item(), (first + second) / 2, rel_tol=1e-6)


def test_a_place_whose_next_item_has_no_class_does_not_count():
    states = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    model = heads(BRANDS)
    found = model(states, torch.tensor([0, 2, 1]))
    assert found.item() == model(states[[0, 2]], torch.tensor([0, 1])).item()
    found.backward()
    assert states.grad[1].tolist() == [0.0, 0.0, 0.0]
    assert (states.grad[[0, 2], :2] != 0.0).all()


def test_a_place_counts_by_its_weight():
    states, targets = torch.randn(3, 3), torch.tensor([0, 2, 1])
    model = heads(BRANDS)
    first, last = (model(states[row : row + 1], targets[row : row + 1]) for row in (0, 2))
    found = model(states, targets, weights=torch.tensor([2.0, 5.0, 0.0]))
    torch.testing.assert_close(found, (2.0 * first + 0.0 * last) / 2)


def test_a_batch_without_any_class_has_a_loss_of_zero():
    assert heads(BRANDS)(torch.randn(2, 3), torch.tensor([2, 2])).item() == 0.0


def test_the_losses_of_fields_are_summed():
    states, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    both = heads(BRANDS, CATEGORIES)(states, targets)
    torch.testing.assert_close(both, heads(BRANDS)(states, targets) + heads(CATEGORIES)(states, targets))
