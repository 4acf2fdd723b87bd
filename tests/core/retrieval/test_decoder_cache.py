"""The decoder step by step against teacher forcing; both forms of cross-attention."""

from __future__ import annotations

import pytest
import torch

from support.small import small_recommender
from support.small_catalogue import USERS, histories
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
        cache = DecoderCache(recommender, memory, mask)
        hidden = recommender.token_table.weight[START].expand(USERS, 1, -1)
        for position in range(3):
            torch.testing.assert_close(cache.step(hidden)[:, 0], expected[:, position])
            hidden = recommender.token_table(codes[:, position] + recommender.offsets[position])[:, None]


@pytest.mark.parametrize("tokens", [3, 20])
@pytest.mark.parametrize("by_head", [True, False])
def test_cross_attention_folded_into_what_it_reads_is_the_same_attention(tokens: int, by_head: bool):
    torch.manual_seed(0)
    cross = small_recommender().decoder.layers[0].cross_attention
    memory, hidden, normed = torch.randn(2, tokens, 12), torch.randn(2, 5, 12), torch.randn(2, 5, 12)
    bias = torch.randn(2, cross.heads if by_head else 1, 1, tokens)
    bias[0, :, :, 2:] = float("-inf")
    with torch.no_grad():
        plain, folded = (
            reads(cross, memory, bias).add_to(hidden, normed) for reads in (PerHeadCrossAttention, FoldedCrossAttention)
        )
    torch.testing.assert_close(folded, plain)


def test_cross_attention_is_folded_for_many_queries_of_short_histories_alone():
    cross = Recommender(RecommenderConfig(128, 512, 4, 64, 1, 1, 0.0, 3, 256, 0)).decoder.layers[0].cross_attention

    def chosen(users: int, tokens: int) -> type:
        return type(
            cross_attention_for(cross, torch.zeros(users, tokens, 128), torch.zeros(users, 1, 1, tokens), queries=91)
        )

    with torch.no_grad():
        assert chosen(users=16, tokens=15) is FoldedCrossAttention
        assert chosen(users=16, tokens=90) is PerHeadCrossAttention
        assert chosen(users=1, tokens=15) is PerHeadCrossAttention
