"""Every model's rank of the test item, against plain computations over the same users."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from support.ranks import rank_in_unseen
from support.small import random_sequences, small_recommender
from unigrec.core.evaluation import baselines
from unigrec.core.evaluation.baselines import Baselines, Ranks
from unigrec.core.evaluation.metrics import rank_in_scores, seen_before
from unigrec.core.evaluation.protocol import MODELS, Protocol
from unigrec.core.evaluation.ranking import rank_test_items, student_ranks
from unigrec.core.identifiers.collisions import disambiguate
from unigrec.core.models.sasrec import SASRec
from unigrec.core.models.unified import expand_history
from unigrec.core.retrieval.beam import exact_scores
from unigrec.core.retrieval.cooccurrence import Cooccurrence
from unigrec.core.retrieval.dense import DenseRetriever
from unigrec.core.retrieval.fused import HIGHEST_FLOOR, FusedRetriever, Weights
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.retrieval.neighbour_ranking import NeighbourRanking, count_neighbours
from unigrec.core.retrieval.retriever import CPU
from unigrec.core.sequences import Histories, Sequences
from unigrec.core.training.student_validation import hard_tokens

ITEMS, HISTORY, LONG = 20, 4, 6
CODES = disambiguate(np.random.default_rng(0).integers(0, 4, (ITEMS, 2)), np.zeros(ITEMS)).codes
RECOMMENDER = small_recommender(levels=2, disambiguation=int(CODES[:, -1].max()) + 1)
CONTENT = torch.randn(ITEMS, 5, generator=torch.Generator().manual_seed(0))
WEIGHTS = Weights(0.5, follows=1.5, alike=3.0, own=0.9)


def teacher() -> SASRec:
    torch.manual_seed(0)
    return SASRec(ITEMS, 8, 1, 2, history=LONG, dropout=0.5)


def retriever_of(sequences: Sequences, beam: int, device: torch.device = CPU) -> FusedRetriever:
    recommender = copy.deepcopy(RECOMMENDER)
    generative = GenerativeRetriever.hardened(recommender, CODES, HISTORY, beam=beam, device=device)
    dense = DenseRetriever(teacher().train(), generative.tree, device)
    return FusedRetriever(generative, dense, count_neighbours(sequences, CONTENT), WEIGHTS)


def ranks(sequences: Sequences, beam: int, batch_size: int = 7, device: torch.device = CPU) -> Ranks:
    neighbours = count_neighbours(sequences, CONTENT)
    baselines = Baselines(sequences, HISTORY, teacher=teacher().train(), neighbours=neighbours, device=device)
    retriever = retriever_of(sequences, beam, device)
    return rank_test_items(sequences, sequences.evaluation_users(), retriever, baselines, batch_size)


def again_scores(sequences: Sequences, histories: Histories) -> Tensor:
    """The items of each history from the last to the first, then all others by popularity."""
    scores = torch.as_tensor(sequences.train_counts()).float().repeat(len(histories.targets), 1)
    for row, (items, length) in enumerate(zip(histories.items, histories.lengths, strict=True)):
        for place, item in enumerate(items[:length].tolist()):
            scores[row, item] = 1e6 + place
    return scores


@torch.no_grad()
def plain_scores(sequences: Sequences) -> dict[str, Tensor]:
    """(U, N) per model, over the whole catalogue."""
    users = sequences.evaluation_users()
    short, long = (sequences.held_out(users, "test", history) for history in (HISTORY, LONG))
    tokens = hard_tokens(RECOMMENDER, torch.as_tensor(CODES))
    source, mask = expand_history(tokens, torch.as_tensor(short.items), torch.as_tensor(short.lengths))
    dense = teacher().eval().scores(torch.as_tensor(long.items), torch.as_tensor(long.lengths))
    student = exact_scores(RECOMMENDER, torch.as_tensor(CODES), source, mask)
    neighbours = count_neighbours(sequences, CONTENT)
    last = torch.as_tensor(short.items[np.arange(len(users)), short.lengths - 1])
    floored = student.clamp_min(math.log(HIGHEST_FLOOR))  # in a small catalogue
    fused = dense.log_softmax(-1) + WEIGHTS.generative * floored
    whole = sequences.held_out(users, "test", 9)
    rows = zip(whole.items, whole.lengths, strict=True)
    counts = torch.stack([torch.as_tensor(np.bincount(row[:length], minlength=ITEMS)) for row, length in rows])
    fused += WEIGHTS.own * counts.log1p()
    fused += WEIGHTS.follows * neighbours.following(last) + WEIGHTS.alike * neighbours.alike(last)
    return {
        "popularity": torch.as_tensor(sequences.train_counts()).float().expand(len(users), -1),
        "cooccurrence": torch.from_numpy(Cooccurrence(sequences).scores(short).toarray()),
        "last_item": again_scores(sequences, short),
        "own_items": 1e6 * counts + torch.as_tensor(sequences.train_counts()),
        "neighbours": NeighbourRanking(neighbours, Cooccurrence(sequences)).scores(short),
        "teacher": dense,
        "student": student,
        "fused": fused,
    }


@pytest.mark.parametrize("protocol", Protocol)
def test_ranks_of_every_model_equal_plain_ones_over_the_whole_catalogue(protocol: str):
    sequences = random_sequences(40, ITEMS, 9)
    users = sequences.evaluation_users()
    found, scores = ranks(sequences, beam=ITEMS), plain_scores(sequences)
    targets = torch.as_tensor(sequences.held_out(users, "test", 1).targets)
    seen = seen_before(sequences, users, "test")
    assert set(scores) == set(MODELS)
    for name, values in scores.items():
        expected = rank_in_unseen(values, targets, seen) if protocol == "masked" else rank_in_scores(values, targets)
        assert found[name, protocol].tolist() == expected.tolist(), name


def test_the_fused_ranking_is_none_of_its_parts():
    sequences = random_sequences(40, ITEMS, 9)
    found = ranks(sequences, beam=ITEMS)
    for part in ("student", "teacher", "neighbours"):
        assert (found["fused", "unmasked"] != found[part, "unmasked"]).any(), part


def test_the_last_item_comes_first_and_what_was_not_read_counts_by_popularity():
    read = [7, 8, 7, 9]  # 5 and 6 are too old
    sequences = Sequences(np.array([5, 6, *read, 9, *[6] * 4, 5, 5]), np.array([0, 7, 13]), ITEMS)
    assert Baselines(sequences, HISTORY).ranks(np.array([0]))["last_item", "unmasked"].tolist() == [1]
    for target, rank in ((7, 2), (8, 3), (6, 4), (5, 5)):
        sequences.items[6] = target
        assert Baselines(sequences, HISTORY).ranks(np.array([0]))["last_item", "unmasked"].tolist() == [rank]


def test_of_the_own_items_the_most_frequent_comes_first_and_then_the_more_popular():
    read = [5, 7, 7, 8, 9]  # the first ones are too old for the models
    sequences = Sequences(np.array([*read, 7, 8, *[8] * 4, 3, 5, 5]), np.array([0, 7, 14]), ITEMS)
    for target, rank in ((7, 1), (8, 2), (5, 3), (9, 4), (3, 5)):
        sequences.items[6] = target
        assert Baselines(sequences, HISTORY).ranks(np.array([0]))["own_items", "unmasked"].tolist() == [rank]


def test_the_student_alone_has_the_ranks_that_it_has_among_all_models():
    sequences = random_sequences(40, ITEMS, 9)
    generative = retriever_of(sequences, beam=5).generative
    alone, among = student_ranks(generative, sequences, sequences.evaluation_users()), ranks(sequences, beam=5)
    assert set(alone) == {("student", protocol) for protocol in Protocol}
    for name, values in alone.items():
        assert values.tolist() == among[name].tolist()


@pytest.mark.parametrize("batch_size", [1, 8])
def test_batch_size_changes_no_rank_nor_does_a_catalogue_that_is_scored_for_a_few_users_at_a_time(
    batch_size, monkeypatch
):
    sequences = random_sequences(25, ITEMS, 9, seed=1)
    many = ranks(sequences, beam=10, batch_size=100)
    monkeypatch.setattr(baselines, "SCORES_AT_ONCE", 3 * ITEMS)
    one = ranks(sequences, beam=10, batch_size=batch_size)
    assert set(one) == {(model, p) for model in MODELS for p in Protocol}
    for name, values in one.items():
        assert np.array_equal(values, many[name]), name


def test_a_target_seen_before_has_rank_zero_when_masked_and_a_rank_when_not():
    sequences = Sequences(np.array([3, 4, 5, 3, 7, 8, 9]), np.array([0, 4, 7]), ITEMS)
    found = ranks(sequences, beam=ITEMS)
    for model in MODELS:
        assert found[model, "masked"][0] == 0, model
        assert found[model, "unmasked"][0] > 0, model
        assert found[model, "masked"][1] > 0, model


@pytest.mark.gpu
def test_ranks_on_a_gpu_are_those_of_a_cpu_but_for_rounding():
    sequences = random_sequences(200, ITEMS, 9, seed=3)
    here, there = (ranks(sequences, beam=10, batch_size=64, device=torch.device(name)) for name in ("cpu", "cuda"))
    for name, ranks_here in here.items():
        assert (ranks_here == there[name]).mean() > 0.97, name
