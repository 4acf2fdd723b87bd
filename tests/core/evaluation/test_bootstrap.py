"""The paired bootstrap: by hand, and against drawing users one by one."""

from __future__ import annotations

import numpy as np
import pytest

from unigrec.core.evaluation import bootstrap
from unigrec.core.evaluation.bootstrap import paired_bootstrap


def test_bootstrap_of_equals_is_zero_and_says_not_better():
    gains = np.random.default_rng(0).random(50)
    assert paired_bootstrap(gains, gains, 200, seed=0) == {"difference": 0, "low": 0, "high": 0, "p_not_better": 1}


def test_bootstrap_of_a_constant_gain_is_that_gain_without_doubt():
    gains = np.random.default_rng(0).random(50)
    found = paired_bootstrap(gains + 0.25, gains, 200, seed=0)
    assert found == pytest.approx({"difference": 0.25, "low": 0.25, "high": 0.25, "p_not_better": 0.0})


def test_bootstrap_interval_has_the_width_of_the_standard_error_and_depends_on_the_seed_only():
    generator = np.random.default_rng(1)
    reference, gain = generator.normal(size=400), generator.normal(0.1, 1.0, 400)
    found = paired_bootstrap(reference + gain, reference, 2000, seed=3)
    error = gain.std() / 20
    assert found["difference"] == pytest.approx(gain.mean())
    assert found["low"] == pytest.approx(gain.mean() - 1.96 * error, abs=0.15 * error)
    assert found["high"] == pytest.approx(gain.mean() + 1.96 * error, abs=0.15 * error)
    assert found == paired_bootstrap(reference + gain, reference, 2000, seed=3)
    turned = paired_bootstrap(reference, reference + gain, 2000, seed=3)
    assert turned["difference"] == pytest.approx(-found["difference"])
    assert turned["p_not_better"] == pytest.approx(1 - found["p_not_better"], abs=0.03)


@pytest.mark.parametrize("at_once", [1, 40, 10**6])
def test_bootstrap_draws_users_with_replacement_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch, at_once):
    """Against drawing users one by one: mean, spread and tail of the resampled means."""
    monkeypatch.setattr(bootstrap, "DRAWS_AT_ONCE", at_once)
    generator = np.random.default_rng(0)
    values = generator.choice([-1.0, 0.0, 0.0, 0.25, 1.0], 50)
    means = bootstrap.bootstrap_means(values, 4000, seed=1)
    drawn = values[generator.integers(0, 50, (4000, 50))].mean(1)
    assert means.shape == (4000,)
    assert means.mean() == pytest.approx(values.mean(), abs=0.01)
    assert means.std() == pytest.approx(drawn.std(), rel=0.06)
    assert np.quantile(means, 0.05) == pytest.approx(np.quantile(drawn, 0.05), abs=0.02)
