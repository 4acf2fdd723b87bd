"""The teacher's ranking as targets of the decoder."""

import numpy as np
import torch
import torch.nn.functional as F

from unigrec.core.losses import ranking_distillation_loss
from unigrec.core.sequences import Segments
from unigrec.core.training.ranking_targets import (
    code_distributions,
    codes_to_decode,
    ranking_of,
    sample_places,
    uniform_numbers,
)
from unigrec.core.training.samples import make_samples
from unigrec.core.training.teacher_items import Best

CODES = torch.tensor([[1, 1], [0, 0], [1, 0], [0, 1], [1, 2]])
SIZES = [2, 3]


def distributions(probabilities: torch.Tensor, items: list[int], of: list[int] | None = None) -> list[torch.Tensor]:
    """Targets of each position for some items, where items `of` have these probabilities -> (R, size) per position."""
    codes = CODES[of or list(range(5))][None]
    return [part[0] for part in code_distributions(codes, probabilities[None], CODES[items][None], sizes=SIZES)]


def test_targets_are_the_mass_of_the_items_with_the_same_prefix():
    first, second = distributions(torch.tensor([0.1, 0.1, 0.3, 0.2, 0.3]), [0, 1])
    torch.testing.assert_close(first, torch.tensor([[0.3, 0.7], [0.3, 0.7]]))
    torch.testing.assert_close(second, torch.tensor([[3 / 7, 1 / 7, 3 / 7], [1 / 3, 2 / 3, 0.0]]))


def test_a_student_that_matches_the_targets_gives_items_the_teachers_probabilities():
    probabilities = torch.rand(5, generator=torch.Generator().manual_seed(0)).softmax(-1)
    first, second = distributions(probabilities, [0, 1, 2, 3, 4])
    items = torch.arange(5)
    chained = first[items, CODES[:, 0]] * second[items, CODES[:, 1]]
    torch.testing.assert_close(chained, probabilities)


def test_codes_that_no_best_item_has_get_nothing():
    first, second = distributions(torch.tensor([0.75, 0.25]), [4], of=[4, 2])
    torch.testing.assert_close(first, torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(second, torch.tensor([[0.25, 0.0, 0.75]]))


def test_items_are_sampled_as_often_as_they_are_probable_and_never_where_they_are_not():
    torch.manual_seed(0)
    probabilities = torch.tensor([[0.0, 0.2, 0.0, 0.8, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]])
    sampled = sample_places(probabilities, torch.rand(2, 20_000, dtype=torch.float64))
    shares = torch.stack([torch.bincount(row, minlength=5) / 20_000 for row in sampled])
    torch.testing.assert_close(shares, probabilities, atol=0.02, rtol=0.0)
    assert (shares[probabilities == 0] == 0).all()


def test_loss_of_one_hot_targets_is_the_cross_entropy_and_the_least_is_at_the_targets():
    logits = [torch.randn(4, 2), torch.randn(4, 3)]
    labels = [torch.tensor([0, 1, 1, 0]), torch.tensor([2, 0, 1, 1])]
    one_hot = [F.one_hot(label, size).float() for label, size in zip(labels, SIZES, strict=True)]
    plain = (
        F.cross_entropy(logits[0], labels[0], reduction="none")
        + F.cross_entropy(logits[1], labels[1], reduction="none")
    ) / 2
    torch.testing.assert_close(ranking_distillation_loss(logits, one_hot), plain)
    soft = [scores.softmax(-1) for scores in logits]
    other = [scores.roll(1, 0) for scores in logits]
    assert (ranking_distillation_loss(logits, soft) <= ranking_distillation_loss(other, soft)).all()


def test_the_followed_codes_are_those_of_best_items_and_their_targets_sum_to_one():
    best = Best(torch.tensor([[4, 1, 2], [0, 3, 1]]), torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.4, 0.0]]))
    uniform = torch.rand(2, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = ranking_of(best, uniform, CODES, SIZES)
    for row, items in enumerate(([4, 1, 2], [0, 3])):
        assert {tuple(codes) for codes in found.codes[row].tolist()} == {tuple(CODES[item].tolist()) for item in items}
    for position, size in enumerate(SIZES):
        assert found.targets[position].shape == (2, 50, size)
        torch.testing.assert_close(found.targets[position].sum(-1), torch.ones(2, 50))
    assert codes_to_decode(CODES[:2], found).shape == (2, 51, 2)
    assert codes_to_decode(CODES[:2], best).shape == codes_to_decode(CODES[:2], None).shape == (2, 1, 2)


def test_the_numbers_that_choose_items_depend_on_seed_and_step():
    batch = Segments(np.array([[3, 1]]), np.array([2]), np.array([2]), np.array([4, 2]), np.array([1, 2]))
    samples = make_samples(batch, torch.device("cpu"))
    numbers = uniform_numbers(samples, 3, seed=1, step=5)
    assert numbers.shape == (2, 3)
    torch.testing.assert_close(uniform_numbers(samples, 3, seed=1, step=5), numbers)
    assert not torch.equal(uniform_numbers(samples, 3, seed=1, step=6), numbers)
    assert not torch.equal(uniform_numbers(samples, 3, seed=2, step=5), numbers)
