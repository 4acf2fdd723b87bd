"""The generative retriever against the exact scorer, history by history."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from support.small_catalogue import catalogue, recommender_of
from unigrec.core.models.unified import embed_hard_history
from unigrec.core.retrieval.beam import exact_scores
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.retrieval.prefix_tree import PrefixTree, Restriction
from unigrec.core.retrieval.retriever import CPU_BATCH, GPU_BATCH
from unigrec.core.sequences import pad_rows

ITEMS, HISTORY, LEVELS = 20, 4, 2
CODES = catalogue(ITEMS, seed=0)
RECOMMENDER = recommender_of(CODES)
RETRIEVER = GenerativeRetriever.hardened(RECOMMENDER, CODES, history=HISTORY, beam=ITEMS)


def drawn(count: int, longest: int = 9, seed: int = 0) -> list[list[int]]:
    """Histories of 1 to `longest` items, in no order of length."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, ITEMS, generator.integers(1, longest + 1)).tolist() for _ in range(count)]


def exact(history: list[int]) -> Tensor:
    """(N,) log-probability of each item after the last items of one history."""
    codes = torch.as_tensor(CODES)
    read = torch.tensor([history[-HISTORY:]])
    source, mask = embed_hard_history(RECOMMENDER, codes[read][..., :LEVELS], torch.tensor([read.shape[1]]))
    return exact_scores(RECOMMENDER, codes, source, mask)[0]


def test_each_history_gets_the_exact_ranking_in_its_own_row():
    histories = drawn(CPU_BATCH + 10)  # two batches
    found = RETRIEVER.retrieve(histories, k=5)
    for row, history in enumerate(histories):
        best = exact(history).sort(descending=True)
        assert found.items[row].tolist() == best.indices[:5].tolist()
        torch.testing.assert_close(found.scores[row], best.values[:5], atol=1e-4, rtol=1e-4)


def test_what_is_allowed_holds_for_all_and_what_is_denied_for_one_history():
    histories, denied = drawn(6), drawn(6, longest=12, seed=1)
    allowed = torch.arange(ITEMS) % 3 > 0
    for some, unwanted in ((allowed, denied), (None, denied), (allowed, None)):
        found = RETRIEVER.retrieve(histories, ITEMS, some, unwanted)
        for row, history in enumerate(histories):
            permitted = torch.ones(ITEMS, dtype=torch.bool) if some is None else some.clone()
            permitted[[] if unwanted is None else unwanted[row]] = False
            ranked = [item for item in exact(history).argsort(descending=True).tolist() if permitted[item]]
            assert found.items[row].tolist() == ranked + [-1] * (ITEMS - len(ranked))
            assert (found.scores[row, len(ranked) :] == float("-inf")).all()


def test_items_beyond_those_that_are_read_are_denied_too():
    histories = drawn(5, longest=12)
    for history, items in zip(histories, RETRIEVER.retrieve(histories, 10, denied=histories).items, strict=True):
        assert not set(items.tolist()) & set(history)


def test_more_items_than_the_beam_is_wide_widen_the_search():
    narrow = GenerativeRetriever.hardened(RECOMMENDER, CODES, history=HISTORY, beam=1)
    histories = drawn(3)
    assert torch.equal(narrow.retrieve(histories, ITEMS).items, RETRIEVER.retrieve(histories, ITEMS).items)
    assert narrow.retrieve(histories, 1).items.shape == (3, 1)


def test_no_history_at_all_gets_no_row():
    assert RETRIEVER.retrieve([], 5).items.shape == RETRIEVER.retrieve([], 5).scores.shape == (0, 5)


def test_soft_identifiers_that_are_one_hot_are_read_as_their_codes():
    codes = torch.as_tensor(CODES[:, :LEVELS])
    with torch.no_grad():
        tokens = RECOMMENDER.embed_soft(F.one_hot(codes, RECOMMENDER.config.codebook_size).float())
    soft = GenerativeRetriever(RECOMMENDER, PrefixTree(CODES), tokens, history=HISTORY, beam=ITEMS)
    histories = drawn(10)
    assert torch.equal(soft.retrieve(histories, 10).items, RETRIEVER.retrieve(histories, 10).items)


def test_searches_of_several_restrictions_are_each_what_they_are_alone():
    items, lengths = pad_rows(drawn(4, longest=HISTORY), fill=0)
    denied = Restriction(RETRIEVER.tree, denied=torch.as_tensor(items))
    for one, restriction in zip(RETRIEVER.search(items, lengths, [None, denied]), [None, denied], strict=True):
        (alone,) = RETRIEVER.search(items, lengths, [restriction])
        exists = one.items >= 0
        assert one.items[exists].tolist() == alone.items[alone.items >= 0].tolist()


@pytest.mark.parametrize(("device", "most"), [("cpu", CPU_BATCH), ("meta", GPU_BATCH)])
def test_batches_are_of_like_lengths_and_as_large_as_the_device_wants(device: str, most: int):
    tokens = torch.empty(ITEMS, LEVELS, 12, device=device)
    retriever = GenerativeRetriever(RECOMMENDER, RETRIEVER.tree, tokens, history=HISTORY, beam=1)
    lengths = np.random.default_rng(0).integers(1, 9, 600)
    batches = list(retriever.batches(lengths))
    assert sorted(np.concatenate(batches)) == list(range(600))
    assert (np.diff(lengths[np.concatenate(batches)]) >= 0).all()
    assert max(map(len, batches)) == most
    assert max(map(len, retriever.batches(lengths, most=7))) == 7


def test_item_tokens_are_read_by_a_recommender_of_item_vectors_and_by_no_other():
    tokens = torch.randn(ITEMS, LEVELS, 12)
    reading = recommender_of(CODES, vector_width=5)
    retriever = GenerativeRetriever.hardened(reading, CODES, HISTORY, beam=ITEMS, tokens=tokens)
    items, lengths = np.array([[4, 2, 0], [1, 3, 5]]), np.array([2, 3])
    source, mask = retriever.embed(items, lengths)
    assert torch.equal(source[mask], tokens[[4, 2, 1, 3, 5]].flatten(0, 1))
    for recommender, given in ((reading, None), (RECOMMENDER, tokens)):
        with pytest.raises(ValueError, match="item tokens belong to a recommender that reads item vectors"):
            GenerativeRetriever.hardened(recommender, CODES, HISTORY, beam=1, tokens=given)


def test_two_items_of_one_identifier_are_an_error():
    with pytest.raises(ValueError, match="share a semantic ID"):
        GenerativeRetriever.hardened(RECOMMENDER, np.r_[CODES, CODES[:1]], history=HISTORY, beam=1)
