"""The decoder step by step against teacher forcing; both forms of cross-attention."""

from __future__ import annotations

import pytest
import torch

from support.small import small_recommender
from support.small_catalogue import USERS, histories
from unigrec.core.models.inference import CrossAttention, InferenceRecommender
from unigrec.core.models.recommender import START, Recommender, RecommenderConfig
from unigrec.core.retrieval.decoder_cache import (
    DecoderCache,
    FoldedCrossAttention,
    PerHeadCrossAttention,
    cross_attention_for,
)


def test_cached_steps_equal_teacher_forcing():
    codes = torch.tensor([[0, 1, 2], [3, 3, 0], [2, 0, 1]])
    recommender, (source, mask) = small_recommender(), histories()
    with torch.no_grad():
        memory = recommender.encode(source, mask)
        expected = recommender.decode(memory, mask, codes[:, None])[:, 0]
        cache = DecoderCache(InferenceRecommender(recommender), memory, mask)
        hidden = recommender.token_table.weight[START].expand(USERS, 1, -1)
        for position in range(3):
            torch.testing.assert_close(recommender.decoder.norm(cache.step(hidden)[:, 0]), expected[:, position])
            hidden = recommender.token_table(codes[:, position] + recommender.offsets[position])[:, None]


@pytest.mark.parametrize("tokens", [3, 20])
@pytest.mark.parametrize("by_head", [True, False])
@pytest.mark.parametrize("form", [PerHeadCrossAttention, FoldedCrossAttention])
def test_both_forms_of_cross_attention_are_that_of_the_layer(form: type, tokens: int, by_head: bool):
    torch.manual_seed(0)
    layer = small_recommender().decoder.layers[0]
    torch.nn.init.normal_(layer.cross_norm.weight)
    memory, hidden = torch.randn(2, tokens, 12), torch.randn(2, 5, 12)
    bias = torch.randn(2, layer.cross_attention.heads if by_head else 1, 1, tokens)
    bias[0, :, :, 2:] = float("-inf")
    with torch.no_grad():
        expected = hidden + layer.cross(hidden, *layer.cross_keys_values(memory), bias=bias)
        found = form(CrossAttention.of(layer), memory, bias).add_to(hidden)
    torch.testing.assert_close(found, expected)


def test_cross_attention_is_folded_for_many_queries_of_short_histories_alone():
    recommender = Recommender(RecommenderConfig(128, 512, 4, 64, 1, 1, 0.0, 3, 256, 0))
    weights = InferenceRecommender(recommender).decoder[0].cross

    def chosen(tokens: int, queries: int) -> type:
        return type(
            cross_attention_for(weights, torch.zeros(1, tokens, 128), torch.zeros(1, 1, 1, tokens), queries=queries)
        )

    assert chosen(tokens=15, queries=91) is FoldedCrossAttention
    assert chosen(tokens=90, queries=91) is PerHeadCrossAttention
    assert chosen(tokens=15, queries=1) is PerHeadCrossAttention
