"""The repeat bias: one number per item of a history, that of its last occurrence."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from support.small import few, small_recommender
from unigrec.core.models.repeat_bias import BUCKETS, RATE, RepeatBias, parameter_groups


@few
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.data())
def test_each_item_has_the_number_of_steps_since_it_came_last(history: list[int], data):
    bias = RepeatBias()
    bias.weight.data = torch.arange(1.0, BUCKETS + 1)
    end = data.draw(st.integers(0, len(history)))
    found = bias(torch.tensor([history]), torch.tensor([[end]]))[0, 0]
    summed = torch.zeros(5).index_add(0, torch.tensor(history), found)
    steps = {item: end - place for place, item in enumerate(history[:end])}  # the last occurrence wins
    assert summed.tolist() == [float(min(steps.get(item, 0), BUCKETS)) for item in range(5)]


def test_padding_changes_nothing_even_where_it_names_an_item_of_the_history():
    bias = RepeatBias()
    bias.weight.data = torch.arange(1.0, BUCKETS + 1)
    found = bias(torch.tensor([[3, 0, 0, 0], [3, 0, 5, 3]]), torch.tensor([[2], [2]]))
    assert found.tolist() == [[[2.0, 1.0, 0.0, 0.0]]] * 2


def test_at_the_places_of_a_mask_it_is_that_of_the_history_up_to_them():
    bias = RepeatBias()
    bias.weight.data = torch.arange(1.0, BUCKETS + 1)
    histories, mask = torch.tensor([[3, 4, 3], [5, 0, 0]]), torch.tensor([[True, False, True], [True, False, False]])
    items, values = bias.at_places(histories, mask)
    assert items.tolist() == [[3, 4, 3], [3, 4, 3], [5, 0, 0]]
    assert values.tolist() == [[1.0, 0.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 0.0]]


def test_an_empty_batch_of_histories_has_an_empty_bias():
    assert RepeatBias()(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 1)).shape == (2, 1, 0)


def test_the_optimizer_moves_the_bias_at_a_rate_of_its_own_without_decay():
    model = small_recommender(repeat_bias=True)
    rest, bias = parameter_groups(model, lr=0.5, weight_decay=0.1)
    assert bias == {"params": [model.repeat_bias.weight], "lr": RATE, "weight_decay": 0.0}
    assert len(rest["params"]) == len(list(model.parameters())) - 1
    assert len(parameter_groups(small_recommender(), lr=0.5, weight_decay=0.1)) == 1
