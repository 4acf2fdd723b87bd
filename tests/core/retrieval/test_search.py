"""From words to items: an item's own text finds it, and the part of the teacher is predicted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.core.retrieval.search import CLOSENESS, QueryScorer

N, D, E = 40, 8, 3


@pytest.fixture(scope="module", params=[0, E], ids=["content alone", "with a part of the teacher"])
def scorer(request) -> QueryScorer:
    """The part of the teacher is a linear map of the content, so that a query's can be predicted exactly."""
    generator = torch.Generator().manual_seed(0)
    content = torch.nn.functional.normalize(torch.randn(N, D, generator=generator), dim=1)
    part = (content * D**0.5) @ torch.randn(D, request.param, generator=generator)
    torch.manual_seed(0)
    tokenizer = Tokenizer(D + request.param, 6, [12], levels=2, codebook_size=8)
    vectors = torch.cat([content * D**0.5, part], 1)
    tokenizer.initialise(vectors, seed=0)
    with torch.no_grad():
        codes = tokenizer.quantize_hard(tokenizer.encoder(vectors)).codes.numpy()
    return QueryScorer(tokenizer, np.c_[codes, np.arange(N)], content, part)


def test_the_own_text_of_every_item_ranks_it_first(scorer):
    assert [int(scorer.scores(text).argmax()) for text in scorer.content] == list(range(N))


def test_the_codes_of_a_text_are_those_of_its_item(scorer):
    """At a low temperature the soft assignments are the hard codes."""
    likely = [scorer.code_scores(text, temperature=1e-5) for text in scorer.content]
    codes = scorer.codes
    for item, scores in enumerate(likely):
        assert torch.equal(codes[int(scores.argmax())], codes[item])


def test_probabilities_of_codes_add_up_to_one(scorer):
    scores = scorer.code_scores(scorer.content[3])
    every = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    whole = QueryScorer(scorer.tokenizer, every.numpy(), torch.zeros(64, D), torch.zeros(64, scorer.part.shape[1]))
    whole.__dict__["_to_part"] = scorer._to_part if scorer.part.shape[1] else None
    assert whole.code_scores(scorer.content[3]).exp().sum() == pytest.approx(1.0, abs=1e-4)
    assert torch.allclose(scorer.scores(scorer.content[3]), scores + CLOSENESS * scorer.content @ scorer.content[3])
