"""The fused retriever: exact scores of every candidate, restrictions, and the weighted sum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from support.small import random_sequences
from support.small_catalogue import catalogue, recommender_of
from unigrec.core.models.sasrec import SASRec
from unigrec.core.retrieval.beam import Repeats, exact_scores
from unigrec.core.retrieval.dense import DenseRetriever
from unigrec.core.retrieval.fused import FEATURES, Candidates, FusedRetriever, Weights
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.retrieval.neighbour_ranking import count_neighbours
from unigrec.core.retrieval.prefix_tree import Restriction
from unigrec.core.sequences import LONGEST

ITEMS, HISTORY = 150, 4
CODES = catalogue(ITEMS, seed=0, levels=3)
SEQUENCES = random_sequences(80, ITEMS, 9)
WEIGHTS = Weights(0.5, follows=1.5, alike=3.0, follows_earlier=0.7, alike_earlier=0.4, together=2.0, own=1.2)


@pytest.fixture(scope="module")
def retriever() -> FusedRetriever:
    recommender = recommender_of(CODES, repeat_bias=True).eval()
    torch.nn.init.normal_(recommender.repeat_bias.weight)
    torch.manual_seed(0)
    model = SASRec(ITEMS, 8, 1, 2, history=6, dropout=0.5, repeat_bias=True)
    embeddings = torch.randn(ITEMS, 5, generator=torch.Generator().manual_seed(0))
    generative = GenerativeRetriever.hardened(recommender, CODES, HISTORY, beam=7)
    dense = DenseRetriever(model, generative.tree, generative.device)
    return FusedRetriever(generative, dense, count_neighbours(SEQUENCES, embeddings), WEIGHTS)


@torch.no_grad()
def exact_features(retriever: FusedRetriever, items: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
    """(B, N, F), each user by itself."""
    rows, recommender = [], retriever.generative.recommender
    for row, length in zip(items, lengths, strict=True):
        short, long = (torch.as_tensor(row[:length][-count:])[None] for count in (HISTORY, 6))
        source, mask = retriever.generative.embed(short.numpy(), np.array([short.shape[1]]))
        repeats = Repeats.of(recommender, short, torch.tensor([short.shape[1]]))
        generative = exact_scores(recommender, torch.as_tensor(CODES), source, mask, repeats=repeats)[0]
        dense = retriever.dense.model.scores(long, torch.tensor([long.shape[1]]))[0].log_softmax(-1)
        neighbours = retriever.neighbours.near(torch.as_tensor(row[:length])[None], torch.tensor([length]))
        generative = generative.clamp_min(math.log(0.01))  # in a catalogue of 150 items
        own = torch.bincount(torch.as_tensor(row[:length]), minlength=ITEMS).log1p()
        rows.append(torch.stack([dense, generative, *(scores[0] for scores in neighbours), own], dim=-1))
    return torch.stack(rows)


@pytest.mark.parametrize("restricted", [False, True])
def test_every_candidate_has_its_exact_features_once_and_none_is_forbidden(retriever, restricted: bool):
    users = SEQUENCES.evaluation_users()[:20]
    histories = SEQUENCES.held_out(users, "test", 8)
    allowed = torch.arange(ITEMS) % 3 != 0
    denied = torch.as_tensor(histories.items)
    restriction = Restriction(retriever.generative.tree, allowed, denied) if restricted else None
    found = retriever.search(histories.items, histories.lengths, [restriction])[0].candidates
    expected = exact_features(retriever, histories.items, histories.lengths)
    assert found.features.shape[-1] == len(FEATURES)
    for row, items in enumerate(found.items):
        kept = items[items >= 0]
        assert len(kept.unique()) == len(kept) >= 40
        torch.testing.assert_close(found.features[row, items >= 0], expected[row, kept], rtol=1e-4, atol=1e-4)
        if restricted:
            assert allowed[kept].all()
            assert not torch.isin(kept, denied[row]).any()


def test_the_best_of_every_part_are_candidates(retriever):
    histories = SEQUENCES.held_out(SEQUENCES.evaluation_users()[:20], "test", 8)
    found = retriever.search(histories.items, histories.lengths)[0].candidates
    exact = exact_features(retriever, histories.items, histories.lengths)
    for name, count in {"dense": 40, "follows": 1, "alike": 10, "together": 10, "own": 8}.items():
        top = exact[..., FEATURES.index(name)].topk(count)
        for row in range(len(top.indices)):
            wanted = top.indices[row][(top.values[row] > 0) | (name == "dense")]
            assert torch.isin(wanted, found.items[row]).all(), name


@pytest.mark.parametrize("own", [1.2, -16.0])
def test_a_wide_pool_ranks_as_the_whole_catalogue_does(retriever, own: float):
    retriever = retriever.with_weights(WEIGHTS._replace(own=own))
    histories = SEQUENCES.held_out(SEQUENCES.evaluation_users()[:20], "test", 8)
    ranked = retriever.best(histories.items, histories.lengths, None, k=ITEMS)
    exact = exact_features(retriever, histories.items, histories.lengths)
    scores = (exact * retriever.weights).sum(-1)
    torch.testing.assert_close(ranked.scores[:, :ITEMS], scores.sort(descending=True).values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        scores.gather(1, ranked.items[:, :ITEMS]), ranked.scores[:, :ITEMS], rtol=1e-4, atol=1e-4
    )


def test_the_lists_of_a_request_are_those_of_the_search_whatever_the_batches(retriever):
    users = SEQUENCES.evaluation_users()[:9]
    histories = SEQUENCES.held_out(users, "test", 8)
    lists = [row[:length].tolist() for row, length in zip(histories.items, histories.lengths, strict=True)]
    found = retriever.retrieve(lists, k=5, denied=lists)
    for row, one in enumerate(lists):
        alone = retriever.retrieve([one], k=5, denied=[one])
        assert alone.items[0].tolist() == found.items[row].tolist()
        assert not set(one) & set(alone.items[0].tolist())


def test_own_items_count_among_the_last_thousand(retriever):
    long = [3] * (LONGEST + 7) + [1, 4]
    found, cut = (retriever.retrieve([history], k=5) for history in (long, long[-LONGEST:]))
    assert found.items.tolist() == cut.items.tolist()
    torch.testing.assert_close(found.scores, cut.scores)
    shorter = retriever.retrieve([long[-LONGEST // 2 :]], k=5)  # the models read the same
    gained = found.scores[found.items == 3] - shorter.scores[shorter.items == 3]
    expected = 1.2 * (math.log1p(LONGEST - 2) - math.log1p(LONGEST // 2 - 2))
    torch.testing.assert_close(gained, torch.tensor([expected]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("cells", [False, True])
def test_own_items_below_zero_take_no_places_of_others(cells: bool):
    """The dense part would recommend the history again; its candidates are the best of the other items all the same."""
    torch.manual_seed(1)
    model = SASRec(ITEMS, 8, 1, 2, history=50, dropout=0.0, repeat_bias=True)
    torch.nn.init.constant_(model.repeat_bias.weight, 9.0)
    generative = GenerativeRetriever.hardened(recommender_of(CODES).eval(), CODES, HISTORY, beam=2)
    dense = DenseRetriever(model, generative.tree, generative.device, scanned=ITEMS - 1 if cells else ITEMS)
    embeddings = torch.randn(ITEMS, 5, generator=torch.Generator().manual_seed(0))
    fused = FusedRetriever(generative, dense, count_neighbours(SEQUENCES, embeddings), WEIGHTS._replace(own=-16.0))
    history = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(2))[:45].numpy()[None]
    lengths = np.array([45])
    (found,) = fused.search(history, lengths)
    exact = dense.scores(history, lengths)[0].index_fill(0, torch.as_tensor(history[0]), float("-inf"))
    assert torch.isin(exact.topk(40).indices, found.candidates.items[0]).all()
    assert not torch.isin(fused.ranked(found.candidates).items[0, :40], torch.as_tensor(history[0])).any()
    had = Restriction(generative.tree, only=torch.as_tensor(history))
    assert set(fused.best(history, lengths, had, k=45).items[0].tolist()) - {-1} == set(history[0].tolist())


def test_the_dense_retriever_ranks_by_its_log_probabilities(retriever):
    found = retriever.dense.retrieve([[3, 1, 4], [1, 5, 9, 2, 6, 5, 3]], k=4, allowed=torch.arange(ITEMS) > 9)
    scores = retriever.dense.model.scores(torch.tensor([[5, 9, 2, 6, 5, 3][-6:]]), torch.tensor([6]))[0].log_softmax(-1)
    scores[:10] = float("-inf")
    assert found.items[1].tolist() == scores.topk(4).indices.tolist()
    torch.testing.assert_close(found.scores[1], scores.topk(4).values)


def test_equal_scores_are_ranked_by_item_and_no_item_comes_last():
    items = torch.tensor([[5, -1, 2, 9]])
    ranked = Candidates(items, torch.zeros(1, 4, 4)).ranked(torch.ones(4))
    assert ranked.items.tolist() == [[2, 5, 9, -1]]
    assert ranked.scores[0, -1] == float("-inf")


def test_below_five_times_chance_the_generative_part_tells_items_alike():
    codes = catalogue(1000, seed=0, levels=4)
    generative = GenerativeRetriever.hardened(recommender_of(codes).eval(), codes, HISTORY, beam=7)
    dense = DenseRetriever(SASRec(1000, 8, 1, 2, history=6, dropout=0.5), generative.tree, generative.device)
    sequences = random_sequences(80, 1000, 9)
    retriever = FusedRetriever(generative, dense, count_neighbours(sequences, torch.randn(1000, 5)))
    histories = sequences.held_out(sequences.evaluation_users()[:20], "test", 8)
    (found,) = retriever.search(histories.items, histories.lengths)
    known = found.candidates.features[..., FEATURES.index("generative")][found.candidates.items >= 0]
    assert known.min() == pytest.approx(math.log(5 / 1000))
    assert found.beam.scores.max() == known.max() > known.min()
