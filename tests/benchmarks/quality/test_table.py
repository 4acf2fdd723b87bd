"""Tests of intervals, differences and pages, with values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from benchmarks.quality.ladder import Rung
from benchmarks.quality.markdown import markdown
from benchmarks.quality.table import Measured, interval

from benchmarks.quality import table as quality_table

A, B = Rung("A", "first", {}, None, {}), Rung("B", "second", {}, "A", {"ndcg_at_10": 0.5})


def measured(*ranks: int) -> Measured:
    table = {"unmasked": np.array(ranks), "masked": np.zeros(len(ranks), np.int64)}
    return Measured(table, [], 1.0, ("code", "cpu"), {})


def test_the_interval_of_three_seeds_by_hand():
    found = interval([1.0, 2.0, 3.0])  # standard deviation 1, t(2) = 4.302653
    assert found["mean"] == 2.0
    assert found["half_width"] == pytest.approx(4.302653 / math.sqrt(3))


def test_two_seeds_and_one():
    assert interval([1.0, 2.0])["half_width"] == pytest.approx(12.7062047 * math.sqrt(0.5) / math.sqrt(2))
    assert interval([1.5]) == {"mean": 1.5, "half_width": None}


@pytest.mark.parametrize(("seeds", "quantile"), [(2, 12.7062), (3, 4.3027), (16, 2.1314), (40, 2.0227)])
def test_the_quantile_is_that_of_students_t(seeds, quantile):
    """Two-sided 5 % quantiles, as printed in tables."""
    values = [0.0, *[1.0] * (seeds - 1)]
    expected = quantile * np.std(values, ddof=1) / math.sqrt(seeds)
    assert interval(values)["half_width"] == pytest.approx(expected, rel=1e-4)


def test_a_difference_takes_the_seeds_that_both_have():
    models = {
        "A": {1: measured(1, 0), 2: measured(0, 0), 3: measured(1, 1)},
        "B": {1: measured(1, 1), 2: measured(1, 0), 9: measured(0, 0)},
    }
    row = quality_table._row("B", B, models, "unmasked", 200)
    assert row["difference"]["seeds"] == [1, 2]
    assert row["difference"]["over_seeds"] == {"mean": 0.5, "half_width": 0.0}  # seed 1: 1 - 0.5; seed 2: 0.5 - 0
    assert row["difference"]["over_users"]["difference"] == 0.5  # user 1: 1 - 0.5; user 2: 0.5 - 0
    assert row["ndcg_at_10"]["mean"] == pytest.approx((1.0 + 0.5 + 0.0) / 3)
    assert row["against"] == "A"


def test_a_rung_whose_predecessor_is_not_there_has_no_difference():
    assert "difference" not in quality_table._row("B", B, {"B": {1: measured(1)}}, "unmasked", 200)
    row = quality_table._row("B", B, {"A": {2: measured(1)}, "B": {1: measured(1)}}, "unmasked", 200)
    assert row["difference"] is None


def test_the_users_interval_is_narrow_where_all_users_gain_alike():
    models = {"A": {1: measured(*[2] * 50)}, "B": {1: measured(*[1] * 50)}}
    users = quality_table._row("B", B, models, "unmasked", 200)["difference"]["over_users"]
    assert users["low"] == users["high"] == pytest.approx(1 - 1 / math.log2(3))


def test_a_rung_is_compared_with_its_parts_in_both_metrics():
    rungs = {"B": B._replace(parts=("teacher", "neighbours"))}
    models = {"teacher": {1: measured(2, 2)}, "B": {1: measured(1, 11)}}  # no neighbours: no row
    (row,) = quality_table._over_parts(rungs, models, "unmasked", 200)
    assert (row["model"], row["against"]) == ("B", "teacher")
    assert row["recall_at_10"]["over_users"]["difference"] == -0.5
    assert row["ndcg_at_10"]["over_users"]["difference"] == pytest.approx(0.5 - 1 / math.log2(3))
    figures = {"protocols": {"unmasked": []}, "parts": {"unmasked": [row]}, "identifiers": [], "slices": {}}
    text = markdown(figures | {"notes": []})
    assert "## Over its parts, unmasked" in text
    assert "| B | teacher | -0.5000 | -0.5000 [" in text


def test_the_page_keeps_the_protocols_apart_and_published_values_to_the_unmasked():
    published = dict.fromkeys(("recall_at_5", "recall_at_10", "ndcg_at_5", "ndcg_at_10"), 0.0346)
    models = {"A": {1: measured(1, 0), 2: measured(1, 0)}}
    rung = A._replace(published=published)
    protocols = {name: [quality_table._row("A", rung, models, name, 200)] for name in ("unmasked", "masked")}
    empty = {"parts": {}, "identifiers": [], "slices": {}}
    text = markdown({"protocols": protocols, **empty, "notes": ["one", "two"]})
    unmasked, masked = text.split("## masked")
    assert "0.0346 / 0.0346 / 0.0346 / 0.0346" in unmasked
    assert "published (Beauty, paper-size)" not in masked
    assert "| 0.5000 |" in unmasked  # no seed changes this value, so no interval is shown
    assert text.endswith("- one\n- two")


def test_results_of_several_devices_or_versions_are_told():
    one, other = measured(1), measured(1)
    object.__setattr__(other, "made_by", ("newer", "NVIDIA"))
    notes = quality_table._mixtures({"A": {1: one, 2: other}})
    assert notes == ["made by 2 versions of the code: code, newer", "made on several devices: NVIDIA, cpu"]
