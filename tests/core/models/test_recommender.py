"""The recommender alone: lookup limit, ranges of the table, causality, padding. T5: test_against_transformers.py."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.small import few, padded, small_recommender
from unigrec.core.models.recommender import START, RecommenderConfig, relative_bucket


@few
@given(st.integers(0, 10_000))
def test_embed_soft_of_one_hot_assignments_is_exactly_the_table_lookup(seed: int):
    recommender = small_recommender(disambiguation=2, seed=seed)
    codes = torch.randint(0, 4, (5, 3))
    one_hot = torch.nn.functional.one_hot(codes, 4).float()
    assert torch.equal(recommender.embed_soft(one_hot), recommender.embed_codes(codes))


def test_embed_soft_is_the_expectation_of_the_levels_own_rows():
    recommender = small_recommender(levels=2, codebook_size=3)
    probabilities = torch.tensor([[[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]]])
    table = recommender.token_table.weight
    expected = torch.stack([0.5 * table[1] + 0.5 * table[2], 0.1 * table[4] + 0.2 * table[5] + 0.7 * table[6]])
    torch.testing.assert_close(recommender.embed_soft(probabilities)[0], expected)


@pytest.mark.parametrize(("merge", "tokens"), [(True, 1), (False, 3)])
def test_item_vectors_are_projected_onto_every_token_of_the_item(merge: bool, tokens: int):
    plain = small_recommender(merge=merge)
    reading = small_recommender(merge=merge, vector_width=5)
    reading.load_state_dict(plain.state_dict(), strict=False)
    levels, vectors = torch.randn(4, 3, 12), torch.randn(4, 5)
    difference = reading.item_tokens(levels, vectors) - plain.item_tokens(levels, None)
    assert difference.shape == (4, tokens, 12)
    torch.testing.assert_close(difference, (vectors @ reading.of_vectors.weight.T)[:, None].expand(-1, tokens, -1))


def test_levels_own_contiguous_ranges_that_cover_the_table_after_the_start_row():
    recommender = small_recommender(levels=2, codebook_size=3, disambiguation=5)
    table = recommender.token_table.weight
    pieces = [recommender.level_table(position) for position in range(3)]
    assert [len(piece) for piece in pieces] == [3, 3, 5]
    assert torch.equal(torch.cat([table[START : START + 1], *pieces]), table)
    assert len(table) == recommender.config.vocabulary == 12


@pytest.mark.parametrize(("disambiguation", "sizes"), [(0, [4, 4]), (1, [4, 4, 1]), (7, [4, 4, 7])])
def test_code_sizes_gain_a_position_where_items_need_disambiguation(disambiguation: int, sizes: list[int]):
    config = RecommenderConfig(8, 8, 2, 4, 1, 1, 0.0, levels=2, codebook_size=4, disambiguation=disambiguation)
    assert config.code_sizes == sizes


def test_position_logits_are_scaled_products_with_that_positions_rows_only():
    recommender = small_recommender(levels=2, codebook_size=3, disambiguation=2)
    output = torch.randn(4, 12)
    whole = output @ recommender.token_table.weight.T / 12**0.5
    torch.testing.assert_close(recommender.position_logits(output, 0), whole[:, 1:4])
    torch.testing.assert_close(recommender.position_logits(output, 1), whole[:, 4:7])
    torch.testing.assert_close(recommender.position_logits(output, 2), whole[:, 7:9])


def test_a_decoder_position_sees_only_the_codes_before_it():
    recommender = small_recommender()
    source, mask = torch.randn(1, 6, 12), padded([6], 6)
    memory = recommender.encode(source, mask)
    base = recommender.decode(memory, mask, torch.tensor([[[0, 1, 2]]]))[:, 0]
    last = recommender.decode(memory, mask, torch.tensor([[[0, 1, 3]]]))[:, 0]
    middle = recommender.decode(memory, mask, torch.tensor([[[0, 2, 2]]]))[:, 0]
    assert torch.equal(last, base)  # the last code is a target, never an input
    torch.testing.assert_close(middle[:, :2], base[:, :2])
    assert (middle[:, 2] - base[:, 2]).abs().max() > 1e-3


def test_padding_of_the_history_does_not_change_the_decoder_whatever_it_holds():
    recommender = small_recommender()
    source, codes = torch.randn(1, 6, 12), torch.tensor([[[0, 1, 2]]])
    alone = recommender.decode(recommender.encode(source, padded([6], 6)), padded([6], 6), codes)
    longer = torch.cat([source, 100 * torch.randn(1, 9, 12)], dim=1)
    mask = padded([6], 15)
    torch.testing.assert_close(recommender.decode(recommender.encode(longer, mask), mask, codes), alone)


def test_the_order_of_the_history_matters():
    recommender = small_recommender()
    source, mask = torch.randn(1, 6, 12), padded([6], 6)
    codes = torch.tensor([[[0, 1, 2]]])
    turned = recommender.decode(recommender.encode(source.flip(1), mask), mask, codes)
    assert (turned - recommender.decode(recommender.encode(source, mask), mask, codes)).abs().max() > 1e-3


def test_relative_buckets_are_exact_when_near_and_logarithmic_when_far():
    distance = torch.tensor([0, -1, -7, -8, -127, -128, -10_000, 1, 7, 8, 127, 10_000])
    both = relative_bucket(distance, bidirectional=True, buckets=32, max_distance=128)
    assert both.tolist() == [0, 1, 7, 8, 15, 15, 15, 17, 23, 24, 31, 31]
    causal = relative_bucket(distance, bidirectional=False, buckets=32, max_distance=128)
    assert causal.tolist() == [0, 1, 7, 8, 31, 31, 31, 0, 0, 0, 0, 0]


def test_paper_setting_has_about_four_million_parameters():
    recommender = small_recommender(
        codebook_size=256, disambiguation=8, d_model=128, d_ff=512, heads=4, d_kv=64, encoder_layers=6, decoder_layers=6
    )
    assert 4.0e6 < sum(parameter.numel() for parameter in recommender.parameters()) < 5.0e6


def test_a_causal_recommender_reads_how_far_back_an_item_lies():
    """Bias of cross-attention: by whole items from the last one that may be read, the same for an item's tokens."""
    stack = small_recommender(levels=2, causal=True).decoder
    mask = torch.tensor([[True, True, True, True, False, False]])
    bias = stack.memory_bias(mask, 1, torch.float32)
    table = stack.recency_bias.weight
    assert bias.shape == (1, 3, 1, 6)
    torch.testing.assert_close(bias[0, :, 0, :4].T, table[[1, 1, 0, 0]])
    assert (bias[0, :, 0, 4:] == float("-inf")).all()
    several = stack.memory_bias(torch.stack([mask & (torch.arange(6) < 2), mask], dim=1), 3, torch.float32)
    assert several.shape == (1, 3, 6, 6)
    torch.testing.assert_close(several[0, :, :3, :2], table[[0, 0]].T[:, None].expand(-1, 3, -1))
    torch.testing.assert_close(several[:, :, 3:], bias.expand(-1, -1, 3, -1))
    assert small_recommender(causal=False).decoder.recency_bias is None
