"""The teacher as other stages see it: an ensemble averages log-probabilities, and reads like one member."""

from __future__ import annotations

import pytest
import torch

from unigrec.core.models.ensemble import TeacherEnsemble, build_teacher
from unigrec.core.models.sasrec import SASRec

ITEMS, LENGTHS = torch.tensor([[3, 1, 3, 5], [2, 6, 0, 0]]), torch.tensor([4, 2])


def member(seed: int) -> SASRec:
    torch.manual_seed(seed)
    model = SASRec(items=9, d_model=8, blocks=1, heads=2, history=4, dropout=0.3, repeat_bias=True).eval()
    for weight in (model.item_embedding.weight, model.position_embedding.weight, model.repeat_bias.weight):
        torch.nn.init.normal_(weight)
    return model


@pytest.mark.parametrize("teacher", [member(0), TeacherEnsemble([member(0), member(1)])])
def test_scores_of_blocks_of_items_after_a_state_are_those_after_the_history_up_to_it(teacher):
    mask = torch.tensor([[False, True, False, True], [True, True, False, False]])
    states = teacher.states_at(ITEMS, LENGTHS, mask)
    found = torch.cat([teacher.block_scores(states, block) for block in (slice(0, 4), slice(4, 9))], dim=1)
    assert found.shape == (4, 9)
    torch.testing.assert_close(found[[1, 3]].log_softmax(-1), teacher.scores(ITEMS, LENGTHS).log_softmax(-1))
    # A shorter history is read as the beginning of the whole: later items change nothing.
    changed = ITEMS.where(torch.tensor([[True, True, False, False], [True, False, False, False]]), 7)
    beginning = teacher.block_scores(teacher.states_at(changed, LENGTHS, mask), slice(0, 9))
    torch.testing.assert_close(beginning[[0, 2]], found[[0, 2]])


def test_an_ensemble_averages_the_log_probabilities_of_its_members():
    first, second = member(0), member(1)
    expected = (first.scores(ITEMS, LENGTHS).log_softmax(-1) + second.scores(ITEMS, LENGTHS).log_softmax(-1)) / 2
    found = TeacherEnsemble([first, second]).scores(ITEMS, LENGTHS)
    torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1))


def test_the_vectors_of_an_ensemble_are_those_of_its_first_member():
    ensemble = TeacherEnsemble([member(0), member(1)])
    assert torch.equal(ensemble.item_vectors(), member(0).item_vectors())
    assert ensemble.history == 4


@pytest.mark.parametrize(
    ("members", "kind"), [({}, SASRec), ({"members": 1}, SASRec), ({"members": 3}, TeacherEnsemble)]
)
def test_a_config_without_a_number_of_members_is_that_of_one(members, kind):
    shape = {"items": 9, "d_model": 8, "blocks": 1, "heads": 2, "history": 4, "dropout": 0.3}
    teacher = build_teacher(shape | members)
    assert isinstance(teacher, kind)
    assert len(list(teacher.parameters())) == members.get("members", 1) * len(list(SASRec(**shape).parameters()))
