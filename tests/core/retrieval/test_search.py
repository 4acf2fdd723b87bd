"""From words to items: an item's own text finds it, words decide before meaning, and a history joins in."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.core.retrieval import search as search_module
from unigrec.core.retrieval.beam import BeamResult
from unigrec.core.retrieval.cells import Cells
from unigrec.core.retrieval.prefix_tree import PrefixTree
from unigrec.core.retrieval.search import (
    CLOSENESS,
    MEANING,
    AllScores,
    QueryCandidates,
    QueryScorer,
    ReadScores,
    with_history,
)
from unigrec.core.retrieval.word_index import WordIndex

N, D, E = 40, 8, 3
INDEX = WordIndex.of([f"word{item % 10}", f"own{item}"] for item in range(N))


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
    return QueryScorer(INDEX, tokenizer, np.c_[codes, np.arange(N)], content, part)


def test_the_own_text_of_every_item_ranks_it_first(scorer):
    assert [int(scorer.meaning(text).argmax()) for text in scorer.content] == list(range(N))
    found = [int(scorer.scores([f"own{item}"], scorer.content[item]).argmax()) for item in range(N)]
    assert found == list(range(N))


def test_meaning_decides_between_items_with_equal_words(scorer):
    """Four items have the word; the vector is that of the third of them, or of an item without the word."""
    found = scorer.scores(["word3"], scorer.content[23])
    assert int(found.argmax()) == 23
    of_words = found - MEANING * scorer.meaning(scorer.content[23])
    assert torch.allclose(of_words, INDEX.scores(["word3"]), atol=1e-4)
    assert torch.equal(scorer.scores(["word3", "xyzzy"], None), INDEX.scores(["word3"]))
    assert int(scorer.scores(["xyzzy"], scorer.content[7]).argmax()) == 7


def test_the_codes_of_a_text_are_those_of_its_item(scorer):
    """At a low temperature the soft assignments are the hard codes."""
    likely = [scorer.code_scores(text, temperature=1e-5) for text in scorer.content]
    codes = scorer.codes
    for item, scores in enumerate(likely):
        assert torch.equal(codes[int(scores.argmax())], codes[item])


def test_probabilities_of_codes_add_up_to_one(scorer):
    scores = scorer.code_scores(scorer.content[3])
    every = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    whole = QueryScorer(
        INDEX, scorer.tokenizer, every.numpy(), torch.zeros(64, D), torch.zeros(64, scorer.part.shape[1])
    )
    whole.__dict__["_to_part"] = scorer._to_part if scorer.part.shape[1] else None
    assert whole.code_scores(scorer.content[3]).exp().sum() == pytest.approx(1.0, abs=1e-4)
    meaning = scores + CLOSENESS * scorer.content @ scorer.content[3]
    assert torch.allclose(scorer.meaning(scorer.content[3]), meaning)
    assert torch.allclose(scorer.scores(["own3"], scorer.content[3]), INDEX.scores(["own3"]) + MEANING * meaning)


def by_number(_, mask, k):
    """A history after which an item is the better, the higher its number."""
    scores = torch.arange(100.0) if mask is None else torch.arange(100.0).masked_fill(~mask, float("-inf"))
    values, items = scores.topk(k)
    return BeamResult(items[None], values[None])


def test_few_candidates_still_hold_the_best_of_both():
    values = torch.zeros(100)
    values[3] = 1000.0
    found = QueryCandidates.of(by_number, AllScores(values), k=2, allowed=None, candidates=1)
    assert found.ranked(1.0, 2).items.tolist() == [[3, 99]]
    assert found.ranked(0.01, 2).items.tolist() == [[99, 98]]


def test_with_a_history_the_scores_are_added_among_permitted_items():
    scores = AllScores(torch.arange(100.0).flip(0))
    allowed = torch.ones(100, dtype=torch.bool)
    allowed[99] = False
    assert with_history(by_number, scores, 0.5, k=2, allowed=allowed).scores.tolist() == [[98.5, 98.0]]
    assert torch.equal(with_history(by_number, scores, 0.0, 3, None).items, by_number(None, None, 3).items)
    assert scores.best(2, torch.arange(100) == 7).items.tolist() == [[7, -1]]


def large(scorer, trained: int = N) -> QueryScorer:
    """The same scores, looked for in the cells of the first items."""
    cells = Cells(PrefixTree(scorer.codes.numpy()[:trained]), [scorer.content[:trained]])
    codes = np.c_[scorer.codes.numpy(), np.arange(N)]
    return QueryScorer(INDEX, scorer.tokenizer, codes, scorer.content, scorer.part, cells)


@pytest.fixture
def distinct(scorer) -> QueryScorer:
    """With identifiers that no two items share."""
    codes = np.stack([np.arange(N) // 8, np.arange(N) % 8, np.arange(N)], 1)
    return QueryScorer(INDEX, scorer.tokenizer, codes, scorer.content, scorer.part)


@pytest.mark.parametrize("trained", [N, N - 3])
@pytest.mark.parametrize("words", [["word3", "own4"], ["xyzzy"], []])
@pytest.mark.parametrize("embedded", [True, False])
def test_where_all_is_read_a_large_catalogue_is_searched_as_a_small_one(distinct, trained, words, embedded):
    query = distinct.content[23] if embedded else None
    allowed = torch.arange(N) % 3 != 0
    for k, mask in ((N, None), (5, None), (7, allowed), (3, torch.arange(N) == 4)):
        expected = distinct.asked(words, query).best(k, mask)
        found = large(distinct, trained).asked(words, query).best(k, mask)
        permitted = expected.items[expected.items >= 0]
        assert found.items[0].tolist() == permitted.tolist()
        assert torch.allclose(found.scores[0], expected.scores[0, : len(permitted)], atol=1e-5)


def test_of_few_items_that_are_read_the_best_of_words_and_meaning_are_among_them(distinct, monkeypatch):
    monkeypatch.setattr(search_module, "READ", 4)
    found = large(distinct).asked(["word3"], distinct.content[20])
    assert isinstance(found, ReadScores)
    of_words = found.best(1, None).items[0].tolist()
    assert INDEX.scores(["word3"])[of_words].min() > 0
    meant = large(distinct).asked(["xyzzy"], distinct.content[20]).best(4, None).items[0].tolist()
    assert 20 in meant
    assert torch.equal(found.of(torch.tensor([20, 3])), distinct.scores(["word3"], distinct.content[20])[[20, 3]])


def test_a_word_that_is_repeated_weighs_more_but_needs_no_more_memory(distinct):
    words = ["word3"] * 20_000 + ["own4"]
    asked = large(distinct).asked(words, None)
    tracemalloc.start()
    found = asked.best(5, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**16  # a number per repetition has more
    assert found.items.tolist() == distinct.asked(words, None).best(5, None).items.tolist()
    assert asked.of(torch.tensor([3])) > 10_000 * large(distinct).asked(["word3"], None).of(torch.tensor([3]))
