"""What an item of the history adds to a score, against computing the score without it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from unigrec.core.models.ensemble import build_teacher
from unigrec.core.retrieval import reasons
from unigrec.core.retrieval.fused import Weights
from unigrec.core.retrieval.neighbours import Neighbours, Pairs
from unigrec.core.retrieval.reasons import support

N, HISTORY = 20, 6
WEIGHTS = Weights(0.5, follows=1.5, alike=0.7, follows_earlier=0.3, alike_earlier=0.2, together=0.9, own=0.8)


@pytest.fixture(scope="module", params=[1, 2])
def model(request):
    torch.manual_seed(0)
    shape = {"items": N, "d_model": 8, "blocks": 1, "heads": 2, "history": HISTORY, "dropout": 0.1, "repeat_bias": True}
    model = build_teacher({**shape, "members": request.param}).eval()
    for name, value in model.named_parameters():
        if "repeat_bias" in name:
            torch.nn.init.normal_(value)
    return model


@pytest.fixture(scope="module")
def neighbours() -> Neighbours:
    generator = torch.Generator().manual_seed(1)
    starts = torch.arange(N + 1) * 3
    items = torch.stack([torch.randperm(N, generator=generator)[:3] for _ in range(N)]).flatten()
    content = torch.nn.functional.normalize(torch.randn(N, 4, generator=generator), dim=1)
    together = Pairs(starts, items.flip(0), torch.rand(3 * N, generator=generator))
    return Neighbours(Pairs(starts, items, torch.rand(3 * N, generator=generator)), together, content)


def score(model, neighbours: Neighbours, history: list[int]) -> torch.Tensor:
    """(N,) the fused score without its generative part."""
    read = torch.tensor([history[-HISTORY:]])
    terms = neighbours.near(torch.tensor([history]), torch.tensor([len(history)]))._asdict()
    near = sum(getattr(WEIGHTS, name) * values for name, values in terms.items())
    with torch.inference_mode():
        return (model.scores(read, torch.tensor([read.shape[1]])).log_softmax(-1) + near)[0]


@pytest.mark.parametrize("history", [[3, 5], [1, 2, 3, 4], [4, 4, 7], [7, 2, 7], [8, 7, 6, 5, 4]])
def test_support_is_the_fall_of_the_score(model, neighbours, history):
    items = torch.tensor([5, 0, 7])
    found = support(model, neighbours, WEIGHTS._replace(own=0.0), history, items)
    for place in range(len(history)):
        without = history[:place] + history[place + 1 :]
        fall = score(model, neighbours, history) - score(model, neighbours, without)
        assert torch.allclose(found[:, place], fall[items], atol=1e-5)


@pytest.mark.parametrize("times", [1, 30])
def test_purchases_of_the_item_itself_are_one_reason(model, neighbours, times):
    history, items = [7] * times + [1, 2, 3, 4, 5, 6], torch.tensor([7, 9])
    own = support(model, neighbours, WEIGHTS, history, items)
    without = support(model, neighbours, WEIGHTS._replace(own=0.0), history, items)
    expected = torch.zeros_like(own)
    expected[0, times - 1] = WEIGHTS.own * math.log1p(times)  # at the last purchase, however long ago
    torch.testing.assert_close(own - without, expected)
    monotone = [1] * 3 + history
    assert support(model, neighbours, WEIGHTS, monotone, items)[0, times + 2] == own[0, times - 1]


def test_no_more_purchases_count_than_the_fused_ranking_reads(model, neighbours, monkeypatch):
    monkeypatch.setattr(reasons, "LONGEST", 8)
    history, items = [7] * 20 + [1, 7, 2, 3, 4, 5, 6], torch.tensor([7])
    found = support(model, neighbours, WEIGHTS, history, items)
    without = support(model, neighbours, WEIGHTS._replace(own=0.0), history, items)
    assert (found - without)[0, 21] == pytest.approx(WEIGHTS.own * math.log1p(2))


def test_only_the_last_items_are_judged_and_a_single_one_is_the_reason(model, neighbours, monkeypatch):
    history, items = list(np.random.default_rng(0).integers(0, N - 2, 9)), torch.tensor([N - 2, N - 1])
    every = support(model, neighbours, WEIGHTS, history, items)
    assert (every[:, :3] == 0).all()  # the model reads six
    monkeypatch.setattr(reasons, "MOST_READ", 2)
    found = support(model, neighbours, WEIGHTS, history, items)
    assert (found[:, :7] == 0).all()
    assert torch.allclose(found[:, 7:], every[:, 7:], atol=1e-5)
    assert support(model, neighbours, WEIGHTS, [4], torch.tensor([1, 2])).tolist() == [[1.0], [1.0]]


def test_where_the_dense_part_reads_one_item_the_last_one_is_the_reason(neighbours):
    torch.manual_seed(0)
    shape = {"items": N, "d_model": 8, "blocks": 1, "heads": 2, "history": 1, "dropout": 0.1, "repeat_bias": True}
    found = support(build_teacher(shape).eval(), neighbours, WEIGHTS, [7, 7, 7, 2], torch.tensor([5, 7]))
    again = WEIGHTS.own * math.log1p(3)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, again, 1.0]]))
