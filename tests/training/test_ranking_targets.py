"""The teacher's ranking as targets of the decoder."""

import torch
import torch.nn.functional as F

from unigrec.losses import ranking_distillation_loss
from unigrec.models.sasrec import SASRec
from unigrec.training.ranking_targets import ranking_targets, teacher_probabilities

CODES = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]])
SIZES = [2, 3]


def test_targets_are_the_mass_of_the_items_with_the_targets_prefix():
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.1, 0.3]])
    first, second = ranking_targets(probabilities, CODES, CODES[3:4], SIZES)
    torch.testing.assert_close(first, torch.tensor([[0.3, 0.7]]))
    torch.testing.assert_close(second, torch.tensor([[3 / 7, 1 / 7, 3 / 7]]))


def test_a_student_that_matches_the_targets_gives_items_the_teachers_probabilities():
    probabilities = torch.rand(1, 5).softmax(-1)
    for item, codes in enumerate(CODES):
        first, second = ranking_targets(probabilities, CODES, codes[None], SIZES)
        chained = first[0, codes[0]] * second[0, codes[1]]
        torch.testing.assert_close(chained, probabilities[0, item])


def test_a_target_that_the_teacher_rules_out_still_has_finite_targets():
    probabilities = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]])
    first, second = ranking_targets(probabilities, CODES, CODES[4:5], SIZES)
    torch.testing.assert_close(first.sum(1), torch.ones(1))
    torch.testing.assert_close(second, torch.full((1, 3), 1 / 3))


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


def test_teacher_probabilities_are_those_of_the_last_item_whatever_the_padding():
    torch.manual_seed(0)
    teacher = SASRec(items=5, d_model=8, blocks=1, heads=2, history=4, dropout=0.5)
    one, two = torch.tensor([1]), torch.tensor([2])
    short = teacher_probabilities(teacher, torch.tensor([[3, 1]]), two, one)
    padded = teacher_probabilities(teacher, torch.tensor([[3, 1, 0, 0]]), two, one)
    torch.testing.assert_close(short, padded)
    torch.testing.assert_close(short.sum(1), torch.ones(1))
    both = teacher_probabilities(teacher, torch.tensor([[3, 1, 0, 0]]), two, two)
    torch.testing.assert_close(both[1:], short)
    assert both.shape == (2, 5)
