"""The teacher: causality, padding and the alignment of positions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from unigrec.core.models.sasrec import FrequencyFilter, SASRec
from unigrec.core.training.teacher import next_items


def teacher(blocks: int = 2, history: int = 6, **options) -> SASRec:
    torch.manual_seed(0)
    model = SASRec(items=9, d_model=8, blocks=blocks, heads=2, history=history, dropout=0.3, **options).eval()
    for embedding in (model.item_embedding, model.position_embedding):
        torch.nn.init.normal_(embedding.weight)
    return model


ITEMS = torch.tensor([[3, 1, 4, 1, 5]])


@pytest.mark.parametrize("options", [{}, {"filter_share": 0.7, "filter_components": 2}])
def test_later_items_do_not_change_earlier_states(options):
    model, lengths = teacher(**options), torch.tensor([5])
    before = model(ITEMS, lengths)
    changed = model(torch.tensor([[3, 1, 4, 7, 8]]), lengths)
    torch.testing.assert_close(changed[:, :3], before[:, :3])
    assert (changed[:, 3:] - before[:, 3:]).abs().min(dim=-1).values.max() > 1e-3


def test_earlier_items_change_later_states():
    model, lengths = teacher(), torch.tensor([5])
    other = model(torch.tensor([[8, 1, 4, 1, 5]]), lengths)
    assert (other - model(ITEMS, lengths))[:, -1].abs().max() > 1e-3


def test_right_padding_does_not_change_results_whatever_it_holds():
    model = teacher()
    alone = model.last_hidden(ITEMS[:, :2], torch.tensor([2]))
    batch = torch.tensor([[3, 1, 0, 0, 0], [3, 1, 8, 7, 6], [3, 1, 4, 1, 5]])
    together = model.last_hidden(batch, torch.tensor([2, 2, 5]))
    torch.testing.assert_close(together[:2], alone.expand(2, -1))
    torch.testing.assert_close(together[2:], model.last_hidden(ITEMS, torch.tensor([5])))


def test_positions_are_aligned_to_the_end_of_the_history():
    model = teacher(blocks=0, history=6)
    hidden = model(torch.tensor([[3, 1, 4], [2, 5, 0]]), torch.tensor([3, 2]))
    for row, step, item, position in [(0, 0, 3, 3), (0, 2, 4, 5), (1, 0, 2, 4), (1, 1, 5, 5)]:
        expected = model.norm(model.item_embedding.weight[item] + model.position_embedding.weight[position])
        torch.testing.assert_close(hidden[row, step], expected)


def test_a_history_of_full_length_and_of_one_item_are_allowed():
    model = teacher(history=5)
    assert torch.isfinite(model.last_hidden(ITEMS, torch.tensor([5]))).all()
    assert torch.isfinite(model.last_hidden(ITEMS[:, :1], torch.tensor([1]))).all()


def test_scores_are_products_with_the_item_embeddings():
    model = teacher()
    hidden = model.last_hidden(ITEMS, torch.tensor([5]))
    expected = torch.stack([(hidden[0] * vector).sum() for vector in model.item_embedding.weight])
    torch.testing.assert_close(model.scores(ITEMS, torch.tensor([5]))[0], expected)


def test_items_of_the_history_get_their_repeat_bias_and_no_other_item_does():
    model = teacher(repeat_bias=True)
    lengths = torch.tensor([5])
    before = model.scores(ITEMS, lengths)[0].detach()
    model.repeat_bias.weight.data = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    added = model.scores(ITEMS, lengths)[0].detach() - before
    expected = torch.zeros(9)
    expected[[5, 1, 4, 3]] = torch.tensor([1.0, 2.0, 3.0, 5.0])  # item 1 comes twice: two steps since the last time
    torch.testing.assert_close(added, expected)


@pytest.mark.parametrize("repeat_bias", [False, True])
def test_next_item_loss_is_the_mean_over_real_positions_of_the_whole_catalogue_cross_entropy(repeat_bias: bool):
    model = teacher(repeat_bias=repeat_bias)
    for parameter in model.repeat_bias.parameters() if repeat_bias else ():
        parameter.data = torch.linspace(-3.0, 2.0, 8)
    items, lengths = torch.tensor([[3, 1, 3, 2], [5, 6, 0, 0]]), torch.tensor([4, 2])
    terms = []
    for row, length in enumerate(lengths.tolist()):
        states = model(items[row : row + 1, : length - 1], torch.tensor([length - 1]))[0]
        for step in range(length - 1):
            logits = states[step] @ model.item_table().T
            if repeat_bias:
                last = {int(item): place for place, item in enumerate(items[row, : step + 1])}
                for item, place in last.items():
                    logits[item] += model.repeat_bias.weight[step - place]
            terms.append(F.cross_entropy(logits[None], items[row, step + 1 : step + 2]))
    expected, found = torch.stack(terms).mean(), next_items(model, items, lengths).loss()
    torch.testing.assert_close(found, expected)
    parameters = list(model.parameters())
    gradients = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (found, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("history", "components"), [(8, 1), (8, 3), (8, 5), (7, 4)])
def test_the_filter_at_a_position_is_the_fourier_transform_of_the_zero_padded_history_up_to_it(history, components):
    """The formula of BSARec (arXiv 2312.10325): keep the lowest components, scale the others by beta squared."""
    torch.manual_seed(0)
    layer, hidden = FrequencyFilter(4, history, components), torch.randn(2, history, 4)
    found = layer(hidden)
    for end in range(1, history + 1):
        padded = torch.cat([torch.zeros(2, history - end, 4), hidden[:, :end]], dim=1)
        spectrum = torch.fft.rfft(padded, dim=1)
        spectrum[:, components:] = 0
        low = torch.fft.irfft(spectrum, n=history, dim=1)[:, -1]
        expected = low + layer.rescale**2 * (hidden[:, end - 1] - low)
        torch.testing.assert_close(found[:, end - 1], expected, rtol=1e-4, atol=1e-5)


def test_a_filter_that_was_used_in_inference_can_be_trained():
    layer, hidden = FrequencyFilter(4, 6, 2), torch.randn(2, 5, 4, requires_grad=True)
    with torch.inference_mode():
        layer(hidden)
    layer(hidden).sum().backward()
    assert hidden.grad is not None


def test_content_is_added_to_the_item_embeddings_and_can_be_folded_into_them():
    model = teacher(content_dim=3)
    model.content = torch.randn(9, 3)
    expected = model.item_embedding.weight + model.content @ model.content_projection.weight.T
    torch.testing.assert_close(model.item_table(), expected)
    before = model.last_hidden(ITEMS, torch.tensor([5])).detach()
    plain = teacher()
    plain.load_state_dict(model.without_content().state_dict())  # the state has no entry for content
    torch.testing.assert_close(plain.last_hidden(ITEMS, torch.tensor([5])), before)
    torch.testing.assert_close(plain.item_embedding.weight, expected)
