"""Every model's rank of the test item, against plain computations over the same users."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from support.small import random_sequences, small_recommender
from unigrec.config.schema import EvaluateParams
from unigrec.core.evaluation.metrics import rank_in_scores, seen_before
from unigrec.core.evaluation.protocol import Protocol
from unigrec.core.evaluation.ranking import Ranks, rank_test_items
from unigrec.core.identifiers.collisions import disambiguate
from unigrec.core.models.sasrec import SASRec
from unigrec.core.models.unified import expand_history
from unigrec.core.retrieval.beam import exact_scores
from unigrec.core.retrieval.cooccurrence import Cooccurrence
from unigrec.core.sequences import Sequences
from unigrec.core.training.student_validation import hard_tokens

ITEMS, HISTORY = 20, 4
CODES = disambiguate(np.random.default_rng(0).integers(0, 4, (ITEMS, 2)), np.zeros(ITEMS)).codes
RECOMMENDER = small_recommender(levels=2, disambiguation=int(CODES[:, -1].max()) + 1)


def teacher() -> SASRec:
    torch.manual_seed(0)
    return SASRec(ITEMS, 8, 1, 2, history=6, dropout=0.5)


def ranks(sequences: Sequences, beam: int, batch_size: int = 7) -> Ranks:
    params = EvaluateParams(beam=beam, batch_size=batch_size, cutoffs=(10,), bootstrap_resamples=100)
    users = sequences.evaluation_users()
    return rank_test_items(sequences, users, teacher().train(), RECOMMENDER, CODES, params, HISTORY)


@pytest.mark.parametrize("protocol", Protocol)
def test_ranks_of_every_model_equal_plain_ones_over_the_whole_catalogue(protocol: str):
    sequences = random_sequences(40, ITEMS, 9)
    users = sequences.evaluation_users()
    found = ranks(sequences, beam=ITEMS)
    short, long = (sequences.held_out(users, "test", history) for history in (HISTORY, 6))
    tokens = hard_tokens(RECOMMENDER, torch.as_tensor(CODES))
    source, mask = expand_history(tokens, torch.as_tensor(short.items), torch.as_tensor(short.lengths))
    model = teacher().eval()
    with torch.no_grad():
        scores = {
            "popularity": torch.as_tensor(sequences.train_counts()).float().expand(len(users), -1),
            "cooccurrence": Cooccurrence(sequences).scores(short),
            "teacher": model.scores(torch.as_tensor(long.items), torch.as_tensor(long.lengths)),
            "student": exact_scores(RECOMMENDER, torch.as_tensor(CODES), source, mask),
        }
    seen = seen_before(sequences, users, "test") if protocol == "masked" else None
    for name, values in scores.items():
        expected = rank_in_scores(values, torch.as_tensor(short.targets), seen)
        assert found[name, protocol].tolist() == expected.tolist(), name


def test_batch_size_changes_no_rank():
    sequences = random_sequences(25, ITEMS, 9, seed=1)
    one, many = ranks(sequences, beam=10, batch_size=1), ranks(sequences, beam=10, batch_size=100)
    assert set(one) == {(model, p) for model in ("popularity", "cooccurrence", "teacher", "student") for p in Protocol}
    for name, values in one.items():
        assert np.array_equal(values, many[name]), name


def test_a_target_seen_before_has_rank_zero_when_masked_and_a_rank_when_not():
    sequences = Sequences(np.array([3, 4, 5, 3, 7, 8, 9]), np.array([0, 4, 7]), ITEMS)
    found = ranks(sequences, beam=ITEMS)
    for model in ("popularity", "cooccurrence", "teacher", "student"):
        assert found[model, "masked"][0] == 0, model
        assert found[model, "unmasked"][0] > 0, model
        assert found[model, "masked"][1] > 0, model


@pytest.mark.gpu
def test_ranks_on_a_gpu_are_those_of_a_cpu_but_for_rounding():
    sequences = random_sequences(200, ITEMS, 9, seed=3)
    users = sequences.evaluation_users()
    params = EvaluateParams(beam=10, batch_size=64, cutoffs=(10,), bootstrap_resamples=100)
    models = teacher(), copy.deepcopy(RECOMMENDER), CODES
    here, there = (
        rank_test_items(sequences, users, *models, params, HISTORY, torch.device(device)) for device in ("cpu", "cuda")
    )
    for name, ranks_here in here.items():
        assert (ranks_here == there[name]).mean() > 0.97, name
