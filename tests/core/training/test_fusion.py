"""The weights of the fused ranking: planted ones are found, ties are modest, and nobody is judged by an own fit."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from support.small import random_sequences
from support.small_catalogue import catalogue, recommender_of
from unigrec.core.evaluation.metrics import ndcg, rank_in_list
from unigrec.core.models.sasrec import SASRec
from unigrec.core.retrieval.dense import DenseRetriever
from unigrec.core.retrieval.fused import FEATURES, Candidates, FusedRetriever, Weights
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.retrieval.neighbour_ranking import count_neighbours
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.core.training import fusion
from unigrec.core.training.fusion import (
    DENSE,
    TRIED,
    Validation,
    choose_ranking,
    cross_fitted_gains,
    fit_weights,
    gains,
    gains_of_parts,
    validation_candidates,
)

USERS, ITEMS = 60, 30
FOLLOWS, ALIKE, GENERATIVE = (FEATURES.index(name) for name in ("follows", "alike", "generative"))
NOTHING = Weights(0.0, 0.0, 0.0)


def blank(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Candidates (all items, in an order of their own per user), their place per item, features of 0, and targets."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.stack([torch.randperm(ITEMS, generator=generator) for _ in range(USERS)])
    targets = torch.randint(ITEMS, (USERS,), generator=generator)
    return items, items.argsort(1), torch.zeros(USERS, ITEMS, len(FEATURES)), targets


def validation_of(items: Tensor, features: Tensor, targets: Tensor) -> Validation:
    """The student's own list is sorted by its scores."""
    scores = features[..., GENERATIVE]
    own = scores.gather(1, (items == targets[:, None]).long().argmax(1)[:, None])
    ahead = (scores > own) | ((scores == own) & (items < targets[:, None]))
    return Validation(Candidates(items, features), targets, ahead.sum(1) + 1)


def with_signal(place: int, users: Tensor | None = None, seed: int = 0) -> Validation:
    """Dense scores that are noise, and one feature that is 1 at the target (of some users, if given), else 0."""
    items, places, features, targets = blank(seed)
    features[..., DENSE] = torch.randn(USERS, ITEMS, generator=torch.Generator().manual_seed(seed))
    at_target = torch.zeros(USERS, ITEMS).scatter_(1, places.gather(1, targets[:, None]), 1.0)
    features[..., place] = at_target if users is None else at_target * users[:, None]
    return validation_of(items, features, targets)


def test_gains_are_those_of_the_ranked_candidates():
    items, _, features, targets = blank()
    features = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    items[:, 20:] = -1  # so that some targets are not found
    features[:, 20:] = 0.0
    weights = Weights(0.3, follows=0.5, alike=1.5)
    found = validation_of(items, features, targets)
    ranked = found.candidates.ranked(weights.of_features())
    expected = ndcg(rank_in_list(ranked.items, targets).numpy(), 10)
    assert gains(found, weights).tolist() == expected.tolist()
    assert 0 < (expected == 0).sum() < USERS


@pytest.mark.parametrize("name", Weights._fields)
def test_a_feature_that_knows_the_target_gets_weight_and_one_that_says_nothing_gets_none(name):
    found = with_signal(FEATURES.index(name))
    weights = fit_weights(found)
    assert getattr(weights, name) >= 2.0
    assert weights._replace(**{name: 0.0}) == NOTHING
    assert gains(found, weights).mean() > 0.95 > gains(found, NOTHING).mean()


def test_a_weight_between_two_mistakes_is_found():
    """Half of the users need more than 0.5 of the generative part, half of them less than 1."""
    items, places, features, targets = blank()
    rival = (targets + 3) % ITEMS
    at = {"target": places.gather(1, targets[:, None]), "rival": places.gather(1, rival[:, None])}
    even = (torch.arange(USERS) % 2 == 0)[:, None]
    dense = torch.full((USERS, ITEMS), -9.0)
    dense.scatter_(1, at["target"], torch.where(even, 0.0, 0.95)).scatter_(1, at["rival"], torch.where(even, 0.55, 0.0))
    generative = torch.zeros(USERS, ITEMS)
    generative.scatter_(1, at["target"], torch.where(even, 1.0, 0.0))
    generative.scatter_(1, at["rival"], torch.where(even, 0.0, 1.0))
    features[..., DENSE], features[..., GENERATIVE] = dense, generative
    found = validation_of(items, features, targets)
    weights = fit_weights(found)
    assert weights.generative in {0.6, 0.8}
    assert gains(found, weights).mean() == 1.0


def test_of_equal_gains_the_smaller_weight_is_taken():
    items, places, features, targets = blank()
    features[..., DENSE] = torch.zeros(USERS, ITEMS).scatter_(1, places.gather(1, targets[:, None]), 100.0)
    features[..., 1:] = torch.rand(USERS, ITEMS, len(Weights._fields), generator=torch.Generator().manual_seed(0))
    assert fit_weights(validation_of(items, features, targets)) == NOTHING
    for tried in TRIED.values():
        assert tried[0] == 0.0
        assert list(tried) == sorted(tried, key=abs)


def test_own_items_rank_last_where_nobody_comes_back_for_them_and_nothing_else_counts_against_an_item():
    """The dense part puts another item above the target; one feature is 1 at that item."""
    items, places, features, targets = blank()
    at_rival = places.gather(1, (targets[:, None] + 3) % ITEMS)
    dense = torch.zeros(USERS, ITEMS).scatter_(1, places.gather(1, targets[:, None]), 3.0)
    features[..., DENSE] = dense.scatter_(1, at_rival, 9.0)
    for name in Weights._fields:
        told = features.clone()
        told[..., FEATURES.index(name)] = torch.zeros(USERS, ITEMS).scatter_(1, at_rival, 1.0)
        found = validation_of(items, told, targets)
        weight = getattr(fit_weights(found), name)
        assert weight == (-8.0 if name == "own" else 0.0)
        assert (gains(found, fit_weights(found)).mean() == 1.0) == (name == "own")


def test_the_fit_is_no_worse_than_any_single_step_from_it():
    generator = torch.Generator().manual_seed(4)
    items, _, _, targets = blank()
    features = torch.randn(USERS, ITEMS, len(FEATURES), generator=generator)
    features[..., GENERATIVE] += 2.0 * (items == targets[:, None])
    found = validation_of(items, features, targets)
    fitted = fit_weights(found)
    best = gains(found, fitted).mean()
    for name, tried in TRIED.items():
        for weight in tried:
            assert gains(found, fitted._replace(**{name: weight})).mean() <= best + 1e-12


def test_a_user_s_own_fold_does_not_choose_the_weights_that_judge_it(monkeypatch):
    fitted_to: list[Tensor] = []

    def remember(part: Validation) -> Weights:
        fitted_to.append(part.targets)
        return NOTHING

    monkeypatch.setattr(fusion, "fit_weights", remember)
    found = with_signal(FOLLOWS)._replace(targets=torch.arange(USERS) % ITEMS)
    numbered = found._replace(targets=torch.arange(USERS))  # so that a target names its user
    cross_fitted_gains(numbered, seed=3)
    folds = [set(users.tolist()) for users in fitted_to]
    assert len(folds) == 2
    assert folds[0] & folds[1] == set()
    assert folds[0] | folds[1] == set(range(USERS))


def test_cross_fitted_gains_do_not_rise_with_what_only_a_user_s_own_fold_knows():
    """The feature knows the target in one fold and the opposite in the other: each fit is wrong for the other fold."""
    seed = 5
    fold = torch.as_tensor(np.random.default_rng(seed).permutation(USERS) % 2)
    found = with_signal(FOLLOWS, users=torch.where(fold == 0, 1.0, -1.0))
    own = [fit_weights(found.rows(fold == number)) for number in (0, 1)]
    assert own[0].follows > 0.0 == own[1].follows
    judged = cross_fitted_gains(found, seed)
    for number, other in ((0, 1), (1, 0)):
        inside = fold == number
        assert judged[inside.numpy()].tolist() == gains(found.rows(inside), own[other]).tolist()
    optimistic = np.concatenate([gains(found.rows(fold == number), own[number]) for number in (0, 1)])
    assert judged.mean() < optimistic.mean()
    assert cross_fitted_gains(found, seed).tolist() == judged.tolist()


def part_scores(dense_right: Tensor, generative_right: Tensor) -> Validation:
    """Parts that put the target first for some users, and last for the others."""
    items, places, features, targets = blank()
    for place, right in ((DENSE, dense_right), (GENERATIVE, generative_right)):
        scores = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(place))
        features[..., place] = scores.scatter_(
            1, places.gather(1, targets[:, None]), torch.where(right, 2.0, -1.0)[:, None]
        )
    return validation_of(items, features, targets)


def test_each_part_alone_is_measured_by_its_own_scores():
    some, few = torch.arange(USERS) < 40, torch.arange(USERS) < 10
    found = gains_of_parts(part_scores(dense_right=some, generative_right=few))
    assert found[RankBy.DENSE].tolist() == some.double().tolist()
    assert found[RankBy.GENERATIVE].tolist() == few.double().tolist()


@pytest.mark.parametrize(("dense", "generative", "better"), [(60, 20, "dense"), (0, 60, "generative")])
def test_the_better_part_is_kept_when_the_fused_ranking_is_no_better(dense, generative, better):
    users = torch.arange(USERS)
    chosen = choose_ranking(part_scores(users < dense, users < generative), "best", seed=0)
    assert chosen.by == better
    assert chosen.validation[better] == 1.0 >= chosen.validation["fused"]


def test_the_fused_ranking_is_chosen_when_each_part_knows_what_the_other_does_not():
    found = with_signal(FOLLOWS)
    chosen = choose_ranking(found, "best", seed=0)
    assert chosen.by == RankBy.FUSED
    assert chosen.validation["fused"] > max(chosen.validation["dense"], chosen.validation["generative"])
    assert chosen.validation["fused"] == cross_fitted_gains(found, 0).mean()
    assert chosen.weights == fit_weights(found)


@pytest.mark.parametrize("by", RankBy)
def test_what_the_params_name_is_chosen_and_the_weights_are_fitted_all_the_same(by: str):
    found = with_signal(FOLLOWS)
    chosen, best = choose_ranking(found, str(by), seed=0), choose_ranking(found, "best", seed=0)
    assert chosen == best._replace(by=by)
    assert set(chosen.validation) == {"fused", "generative", "dense"}


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_a_part_that_tells_no_items_apart_is_not_chosen(value: float):
    found = part_scores(torch.ones(USERS, dtype=torch.bool), torch.ones(USERS, dtype=torch.bool))
    found.candidates.features[..., DENSE] = value
    measured = gains_of_parts(found)
    assert measured[RankBy.DENSE].mean() < 0.5 < measured[RankBy.GENERATIVE].mean()


CODES = catalogue(ITEMS, seed=0, levels=3)


def test_validation_candidates_are_those_of_a_search_per_user():
    sequences = random_sequences(30, ITEMS, 9)
    recommender = recommender_of(CODES).eval()
    torch.manual_seed(0)
    model = SASRec(ITEMS, 8, 1, 2, history=6, dropout=0.5)
    generative = GenerativeRetriever.hardened(recommender, CODES, 4, beam=3)
    neighbours = count_neighbours(sequences, torch.randn(ITEMS, 5, generator=torch.Generator().manual_seed(0)))
    dense = DenseRetriever(model, generative.tree, generative.device)
    retriever = FusedRetriever(generative, dense, neighbours)
    users = sequences.evaluation_users()[::2]
    weighted = retriever.with_weights(NOTHING)  # of an earlier fit, to which own items counted nothing
    found = validation_candidates(weighted, sequences, users)
    assert len(found.targets) == len(users)
    for row, user in enumerate(users):
        start, end = sequences.offsets[user : user + 2]
        before = sequences.items[start : end - 2]
        (alone,) = retriever.search(before[None], np.array([len(before)]))
        expected = {
            int(item): feature
            for item, feature in zip(alone.candidates.items[0], alone.candidates.features[0], strict=True)
            if item >= 0
        }
        own = alone.beam.items[0].tolist()
        target = int(sequences.items[end - 2])
        assert found.ranks[row] == (own.index(target) + 1 if target in own else 0)
        items, features = found.candidates.items[row], found.candidates.features[row]
        assert sorted(items[items >= 0].tolist()) == sorted(expected)
        assert found.targets[row] == sequences.items[end - 2]
        for item, feature in zip(items.tolist(), features, strict=True):
            torch.testing.assert_close(feature, expected.get(item, torch.zeros(len(FEATURES))), rtol=1e-4, atol=1e-4)


def test_rows_are_the_same_users_everywhere():
    found = with_signal(ALIKE)
    kept = copy.deepcopy(found).rows(torch.arange(USERS) % 7 == 0)
    for place, user in enumerate(range(0, USERS, 7)):
        assert kept.targets[place] == found.targets[user]
        assert torch.equal(kept.candidates.items[place], found.candidates.items[user])
        assert torch.equal(kept.candidates.features[place], found.candidates.features[user])
