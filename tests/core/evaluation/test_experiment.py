"""Tests of two versions keep their error rate, find a difference that is there, and say how large one they find."""

from __future__ import annotations

import numpy as np
import pytest

from unigrec.core.evaluation.experiment import Arm, difference, is_enough, mismatch, p_worse_by, power

EXPERIMENTS = 2000
SPREAD = 4.0 * (0.05 * 0.95 / EXPERIMENTS) ** 0.5  # of the share that a test of 5 % finds


def visitors(users: int, rate: float, seed: int, experiments: int = EXPERIMENTS) -> Arm:
    """Users of very different eagerness, who come one to six times: an impression's hits depend on those before."""
    chance = np.random.default_rng(seed)
    eager = np.minimum(rate * chance.gamma(0.5, 2.0, (experiments, users)), 0.9)
    shown = chance.integers(1, 7, (experiments, users))
    return Arm(shown, chance.binomial(shown, eager))


def once(arm: Arm) -> Arm:
    """By user: 1 for each one with a hit."""
    return Arm(np.ones(arm.hits.shape), (arm.hits > 0).astype(float))


@pytest.mark.parametrize(("old", "new"), [(500, 500), (1350, 150)], ids=["halves", "a tenth"])
@pytest.mark.parametrize("way", [once, lambda arm: arm], ids=["by user", "by impression"])
def test_where_there_is_no_difference_one_is_found_at_the_stated_rate(old, new, way):
    found = difference(way(visitors(old, 0.03, 0)), way(visitors(new, 0.03, 1)))
    assert (found.p <= 0.05).mean() == pytest.approx(0.05, abs=SPREAD)
    assert (found.p_no_better <= 0.05).mean() == pytest.approx(0.05, abs=SPREAD + 0.01)
    assert ((found.low <= 0.0) & (found.high >= 0.0)).mean() > 0.93


def test_users_are_the_unit_not_impressions():
    old, new = visitors(500, 0.05, 0), visitors(500, 0.05, 1)
    rate = (old.hits.sum(1) + new.hits.sum(1)) / (old.shown.sum(1) + new.shown.sum(1))
    error = np.sqrt(rate * (1 - rate) * (1 / old.shown.sum(1) + 1 / new.shown.sum(1)))  # as if they were independent
    assert (np.abs(new.rate - old.rate) > 1.96 * error).mean() > 0.07
    assert (difference(old, new).p <= 0.05).mean() < 0.05 + SPREAD


def test_a_difference_as_large_as_can_be_found_is_found_four_times_of_five():
    chance, users, rate = np.random.default_rng(2), 800, 0.1
    shown = np.ones((EXPERIMENTS, users))
    smallest = power(rate, users, users)["smallest"]
    old = Arm(shown, chance.binomial(1, rate, shown.shape))
    new = Arm(shown, chance.binomial(1, rate + smallest, shown.shape))
    found = difference(old, new)
    assert (found.p <= 0.05).mean() == pytest.approx(0.8, abs=0.03)
    assert ((found.low <= smallest) & (found.high >= smallest)).mean() == pytest.approx(0.95, abs=SPREAD)
    assert (difference(new, old).p_no_better <= 0.05).mean() < 0.001


def test_the_figures_of_a_small_experiment():
    old, new = Arm(np.array([1.0, 1, 1, 1]), np.array([1.0, 0, 0, 0])), Arm(np.array([2.0, 2]), np.array([1.0, 0]))
    assert (old.rate, new.rate) == (0.25, 0.25)
    assert old.variance(old.rate) == pytest.approx((0.75**2 + 3 * 0.25**2) / 16)
    assert new.variance(new.rate) == pytest.approx((0.5**2 + 0.5**2) / 16)
    found = difference(old, new)
    assert (float(found.difference), float(found.p), float(found.p_no_better)) == (0.0, 1.0, 0.5)
    nothing = Arm(np.ones(3), np.zeros(3))
    assert float(difference(nothing, nothing).p) == 1.0
    assert power(0.0, 3, 3)["relative"] is None


def test_so_many_users_find_a_tenth():
    told = power(0.05, 9_000, 1_000)
    assert told["relative"] == pytest.approx(told["smallest"] / 0.05)
    users = told["users_for_a_tenth"]
    assert users > 10_000
    assert power(0.05, round(0.9 * users), round(0.1 * users))["relative"] == pytest.approx(0.1, abs=1e-4)


def test_not_worse_is_asked_of_the_share_that_may_be_lost():
    old = (0.10, 0.0001)
    assert p_worse_by(0.02, old, (0.10, 0.0001)) == pytest.approx(0.443, abs=0.001)
    assert p_worse_by(0.5, old, (0.10, 0.0001)) < 0.001
    assert p_worse_by(0.02, old, (0.05, 0.0001)) > 0.999
    assert p_worse_by(0.02, (0.0, 0.0), (0.0, 0.0)) == 1.0


@pytest.mark.parametrize(("hits", "enough"), [(9, False), (10, True), (91, False)])
def test_a_test_needs_users_with_a_hit_and_without(hits, enough):
    arm = Arm(np.ones(100), (np.arange(100) < hits).astype(float))
    assert is_enough(arm, arm) is enough


@pytest.mark.parametrize(("found", "expected"), [(100, False), (130, False), (160, True), (40, True)])
def test_a_split_that_was_not_asked_for_is_told(found, expected):
    told = mismatch(np.full(1000, 0.1), np.arange(1000) < found)
    assert (told["expected"], told["found"], told["is_mismatch"]) == (pytest.approx(100), found, expected)


def test_a_share_that_was_changed_meanwhile_is_no_mismatch():
    shares = np.repeat([0.1, 0.5], 1000)
    chance = np.random.default_rng(0)
    told = [mismatch(shares, chance.random(2000) < shares)["p"] for _ in range(400)]
    assert np.mean(np.array(told) < 0.05) == pytest.approx(0.05, abs=0.045)
