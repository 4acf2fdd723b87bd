"""The teacher's ranking as targets of the decoder."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unigrec.core.losses import ranking_distillation_loss
from unigrec.core.models.ensemble import TeacherEnsemble
from unigrec.core.models.sasrec import SASRec
from unigrec.core.retrieval.prefix_tree import PrefixTree
from unigrec.core.sequences import Segments
from unigrec.core.training.ranking_targets import (
    TeacherRanking,
    code_distributions,
    codes_to_decode,
    sample_items,
    teacher_distribution,
)
from unigrec.core.training.samples import make_samples

CODES = torch.tensor([[1, 1], [0, 0], [1, 0], [0, 1], [1, 2]])
SIZES = [2, 3]


def distributions(probabilities: torch.Tensor, items: list[int]) -> list[torch.Tensor]:
    """Targets of each position for some items: (N,) by catalogue index -> (R, size) per position."""
    tree = PrefixTree(CODES.numpy())
    cumulative = F.pad(probabilities[None, tree.order].double().cumsum(1), (1, 0))
    return [part[0] for part in code_distributions(tree, cumulative, tree.rank[torch.tensor(items)][None], sizes=SIZES)]


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


def test_a_prefix_that_the_teacher_rules_out_still_has_finite_targets():
    first, second = distributions(torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0]), [4])
    torch.testing.assert_close(first.sum(1), torch.ones(1))
    torch.testing.assert_close(second, torch.full((1, 3), 1 / 3))


def test_items_are_sampled_as_often_as_they_are_probable_and_never_where_they_are_not():
    torch.manual_seed(0)
    probabilities = torch.tensor([[0.0, 0.2, 0.0, 0.8, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]])
    sampled, cumulative = sample_items(probabilities, torch.rand(2, 20_000, dtype=torch.float64))
    shares = torch.stack([torch.bincount(row, minlength=5) / 20_000 for row in sampled])
    torch.testing.assert_close(shares, probabilities, atol=0.02, rtol=0.0)
    assert (shares[probabilities == 0] == 0).all()
    torch.testing.assert_close(cumulative.diff(dim=1).float(), probabilities)


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


def uniform(samples: int) -> torch.Tensor:
    return torch.rand(samples, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def ranking() -> TeacherRanking:
    torch.manual_seed(0)
    teacher = SASRec(items=5, d_model=8, blocks=1, heads=2, history=4, dropout=0.5, repeat_bias=True)
    torch.nn.init.normal_(teacher.item_embedding.weight)
    torch.nn.init.normal_(teacher.repeat_bias.weight)
    found = TeacherRanking(teacher, SIZES, items=3, seed=0)
    found.use_identifiers(CODES)
    return found


def test_the_first_targets_are_the_teachers_probabilities_of_the_last_item_whatever_the_padding(ranking):
    one, two = torch.tensor([1]), torch.tensor([2])
    expected = ranking.teacher.scores(torch.tensor([[3, 1]]), two).softmax(-1)[0]
    by_code = torch.stack([expected[CODES[:, 0] == code].sum() for code in (0, 1)])
    for history, counts in (([[3, 1]], one), ([[3, 1, 0, 0]], one), ([[3, 1, 0, 0]], two)):
        found = ranking.rank_after(torch.tensor(history), two, counts, uniform=uniform(int(counts)))
        assert found.codes.shape == (int(counts), 3, 2)
        torch.testing.assert_close(found.targets[0][-1], by_code.expand(3, -1))


def test_sampled_codes_are_those_of_items_and_follow_the_identifiers_when_they_change(ranking):
    history, lengths = torch.tensor([[3, 1]]), torch.tensor([2])
    known = {tuple(codes) for codes in CODES.tolist()}
    before = ranking.rank_after(history, lengths, lengths, uniform=uniform(2)).codes
    assert {tuple(codes) for codes in before.flatten(0, 1).tolist()} <= known
    ranking.use_identifiers(CODES.flip(0))
    assert not torch.equal(ranking.rank_after(history, lengths, lengths, uniform=uniform(2)).codes, before)


@pytest.mark.parametrize("members", [1, 2])
def test_a_set_decoder_learns_the_teachers_distribution_over_items(ranking, members):
    teacher = ranking.teacher if members == 1 else TeacherEnsemble([ranking.teacher, ranking.in_tree_order])
    history = np.array([[3, 1, 4], [2, 0, 0]])
    batch = Segments(history, np.array([3, 1]), np.array([2, 1]), np.array([4, 2, 0]))
    found = teacher_distribution(teacher, make_samples(batch, torch.device("cpu")))
    assert codes_to_decode(CODES[:3], found).shape == (3, 1, 2)
    # After the last items; the first target is in the midst of a history.
    for rows, read in ((slice(1, 2), [3, 1, 4]), (slice(2, 9), [2])):
        expected = teacher.scores(torch.tensor([read]), torch.tensor([len(read)]))
        torch.testing.assert_close(found.columns(rows).T, expected)
