import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unigrec.core.models.ensemble import TeacherEnsemble
from unigrec.core.models.sasrec import SASRec
from unigrec.core.retrieval.new_items import DECAY, TEXT_WEIGHT, NewItems

N, M, D = 30, 5, 4


@pytest.fixture(scope="module")
def new() -> NewItems:
    generator = torch.Generator().manual_seed(0)
    content, trained = (F.normalize(torch.randn(count, D, generator=generator), dim=1) for count in (M, N))
    torch.manual_seed(0)
    members = [SASRec(N, 8, 1, 2, history=3, dropout=0.0).eval() for _ in range(2)]
    for member in members:  # vectors that texts tell exactly
        member.item_embedding.weight.data = trained @ torch.randn(D, 8, generator=generator)
    return NewItems(TeacherEnsemble(members), content, trained)


def test_the_score_is_the_state_times_the_predicted_vector_and_the_texts_of_the_last_items(new):
    history = [7, 3, 9, 1]
    expected = torch.zeros(M)
    for member, vectors in zip(new.teacher.networks, new.vectors, strict=True):
        state = member.last_hidden(torch.tensor([[3, 9, 1]]), torch.tensor([3]))[0]
        expected += vectors @ state / 2
    for back, item in enumerate([1, 9, 3]):
        expected += TEXT_WEIGHT * DECAY**back * (new.content @ new.trained[item])
    torch.testing.assert_close(new.scores([history, [2]])[0], expected)


def test_what_texts_tell_is_predicted(new):
    for member, vectors in zip(new.teacher.networks, new.vectors, strict=True):
        exact = new.content @ torch.linalg.lstsq(new.trained, member.item_vectors()).solution
        assert F.cosine_similarity(vectors, exact).min() > 0.98


def test_the_best_are_those_of_the_scores_that_are_allowed_and_not_denied(new):
    histories = [[4], [5, 6]]
    scores = new.scores(histories)
    allowed = torch.tensor([True, True, False, True, True])
    found = new.best(histories, 3, allowed, denied=[[0, 1], []])
    assert found.items[0].tolist() == [*sorted([3, 4], key=lambda item: -scores[0, item]), -1]
    assert found.items[1].tolist() == sorted([0, 1, 3, 4], key=lambda item: -scores[1, item])[:3]
    np.testing.assert_allclose(found.scores[1], scores[1, found.items[1]])


def test_a_stand_in_has_the_nearest_text(new):
    assert new.stand_ins().tolist() == (new.content @ new.trained.T).argmax(1).tolist()
