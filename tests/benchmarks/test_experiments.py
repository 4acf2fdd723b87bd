"""The benchmark on experiments: its visitors depend on themselves, and its table says what was found."""

from __future__ import annotations

import numpy as np
from benchmarks.experiments import found, main, naive, visitors


def test_as_if_impressions_were_users_keeps_the_sums():
    arm = visitors(3, 50, 0.2, np.random.default_rng(0))
    spread = naive(arm)
    assert np.array_equal(spread.shown.sum(-1), arm.shown.sum(-1))
    assert np.array_equal(spread.hits.sum(-1), arm.hits.sum(-1))
    assert set(np.unique(spread.hits)) == {0.0, 1.0}
    assert (spread.variance(spread.rate) < arm.variance(arm.rate)).all()


def test_a_large_gain_is_found_and_none_is_not():
    equal, better = (found(400, 0.5, gain, experiments=200, seed=0) for gain in (0.0, 4.0))
    assert equal["by user"] < 0.15
    assert better["by user"] > 0.9
    assert better["gain by user"] > better["found with 80 %"] > 0.0


def test_the_table_has_a_line_per_case_and_gain(capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.experiments.CASES", ((100, 0.5),))
    assert main(["--experiments", "10", "--gain", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[3].strip() for line in lines[-2:]] == ["+0%", "+100%"]
