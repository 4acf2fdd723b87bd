"""Schedules of learning rate and temperature."""

from __future__ import annotations

import pytest

from unigrec.core.training.schedules import rate_factor, temperature_at


def test_the_rate_rises_over_the_warm_up_then_stays_or_falls_along_a_cosine():
    for schedule in ("constant", "cosine"):
        assert 0.0 < rate_factor(0.0, 0.1, schedule) < 1e-4
        assert rate_factor(0.05, 0.1, schedule) == pytest.approx(0.5, abs=1e-4)
        assert rate_factor(0.1, 0.1, schedule) == 1.0
    assert rate_factor(0.999, 0.1, "constant") == 1.0
    assert rate_factor(0.55, 0.1, "cosine") == pytest.approx(0.5)
    assert 0.0 < rate_factor(0.999, 0.1, "cosine") < 1e-4
    assert rate_factor(0.0, 0.0, "cosine") == 1.0


def test_the_temperature_is_linear_between_its_ends():
    assert [temperature_at(done, 0.05, 0.01) for done in (0.0, 0.25, 1.0)] == pytest.approx([0.05, 0.04, 0.01])
    assert temperature_at(0.5, 0.001, 0.001) == 0.001
