"""The search of a set decoder against sums of logits that are written out, and against what training sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from support.small_catalogue import USERS, catalogue, histories, recommender_of
from unigrec.core.models.item_scores import CodeSums
from unigrec.core.models.recommender import Recommender, RecommenderConfig
from unigrec.core.models.unified import embed_hard_history
from unigrec.core.retrieval.beam import Repeats
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.retrieval.prefix_tree import PrefixTree, Restriction
from unigrec.core.retrieval.set_scan import catalogue_scores, scan_catalogue
from unigrec.core.sequences import Segments
from unigrec.core.training.finetune import hardened_logits
from unigrec.core.training.samples import make_samples

ITEMS = 20
CODES = catalogue(ITEMS, seed=0)
IDENTIFIERS = torch.as_tensor(CODES)


def set_recommender(**changes: bool) -> Recommender:
    recommender = recommender_of(CODES, decoder="set", repeat_bias=True, **changes)
    torch.nn.init.normal_(recommender.repeat_bias.weight, std=3.0)
    return recommender


@torch.no_grad()
def written_out(recommender: Recommender, source: Tensor, mask: Tensor, repeats: Repeats) -> Tensor:
    """(B, N): user by user, item by item, code by code."""
    rows = []
    for user in range(len(source)):
        memory = recommender.encode(source[user : user + 1], mask[user : user + 1])
        states = recommender.decode_set(memory, mask[user : user + 1])[0]
        scores = []
        for item, codes in enumerate(CODES):
            logits = [recommender.position_logits(states[place], place)[code] for place, code in enumerate(codes)]
            bonus = repeats.values[user][repeats.items[user] == item].sum()
            scores.append(sum(logits) + bonus)
        rows.append(torch.stack(scores).log_softmax(0))
    return torch.stack(rows)


def repeats_of(recommender: Recommender) -> Repeats:
    items = torch.as_tensor(np.random.default_rng(0).integers(0, ITEMS, (USERS, 6)))
    found = Repeats.of(recommender, items, torch.tensor([6, 4, 2]))
    assert found is not None
    return found


@pytest.mark.parametrize("causal", [False, True])
def test_the_whole_catalogue_is_ranked_by_the_sum_of_each_items_logits(causal: bool):
    recommender, inputs = set_recommender(causal=causal), histories()
    repeats = repeats_of(recommender)
    (found,) = scan_catalogue(recommender, PrefixTree(CODES), *inputs, ITEMS + 5, [None], repeats=repeats)
    expected = written_out(recommender, *inputs, repeats).sort(descending=True)
    assert torch.equal(found.items, expected.indices)
    torch.testing.assert_close(found.scores, expected.values)


def test_each_restriction_has_its_best_items_and_its_own_width():
    recommender, inputs, tree = set_recommender(), histories(), PrefixTree(CODES)
    allowed, only = torch.arange(ITEMS) % 3 > 0, torch.tensor([[3, 7, -1]] * USERS)
    restrictions = [None, Restriction(tree, allowed), Restriction(tree, only=only)]
    every, some, few = scan_catalogue(recommender, tree, *inputs, [4, ITEMS, 3], restrictions)
    ranked = catalogue_scores(recommender, IDENTIFIERS, *inputs).argsort(descending=True)
    assert torch.equal(every.items, ranked[:, :4])
    for row in range(USERS):
        permitted = [item for item in ranked[row].tolist() if allowed[item]]
        assert some.items[row].tolist() == permitted + [-1] * (ITEMS - len(permitted))
        assert few.items[row].tolist() == [item for item in ranked[row].tolist() if item in (3, 7)] + [-1]
        assert few.scores[row, 2] == float("-inf")


def test_a_bound_leaves_the_items_above_it():
    recommender, inputs, tree = set_recommender(), histories(), PrefixTree(CODES)
    scores = catalogue_scores(recommender, IDENTIFIERS, *inputs)
    bound = float(scores[0].median())
    (found,) = scan_catalogue(recommender, tree, *inputs, ITEMS, [None], above=[bound])
    assert (found.items >= 0).sum(1).tolist() == (scores > bound).sum(1).tolist()


def test_the_retriever_of_a_set_decoder_scans_and_reads_what_a_beam_would_read():
    recommender = set_recommender()
    retriever = GenerativeRetriever.hardened(recommender, CODES, history=4, beam=3)
    found = retriever.retrieve([[1, 5, 2, 5, 9, 3], [4]], k=6)
    for row, history in enumerate(([2, 5, 9, 3], [4])):
        read, length = torch.tensor([history]), torch.tensor([len(history)])
        inputs = embed_hard_history(recommender, IDENTIFIERS[read][..., :2], length)
        expected = written_out(recommender, *inputs, Repeats.of(recommender, read, length))[0].sort(descending=True)
        assert found.items[row].tolist() == expected.indices[:6].tolist()
        torch.testing.assert_close(found.scores[row], expected.values[:6])


def test_training_sees_the_scores_of_the_search():
    recommender, history = set_recommender(causal=True), np.array([[3, 9, 3, 4, 12]])
    batch = Segments(history, np.array([5]), np.ones(1, np.int64), np.array([5]), np.zeros(1, np.int64))
    samples = make_samples(batch, torch.device("cpu"))
    scores = hardened_logits(recommender, samples, IDENTIFIERS, IDENTIFIERS[samples.targets][:, None])
    columns = scores.columns(CodeSums(IDENTIFIERS, recommender.config.code_sizes))
    items, length = torch.as_tensor(history), torch.tensor([5])
    inputs = embed_hard_history(recommender, IDENTIFIERS[items][..., :2], length)
    expected = catalogue_scores(recommender, IDENTIFIERS, *inputs, Repeats.of(recommender, items, length))
    torch.testing.assert_close(columns.T.log_softmax(-1), expected)


def test_a_decoder_that_does_not_exist_is_refused():
    config = recommender_of(CODES).config.to_dict() | {"decoder": "parallel"}
    with pytest.raises(ValueError, match="decoder"):
        Recommender(RecommenderConfig(**config))
