"""What a report of an experiment says: the finding, its figures, and what a reader must know of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from unigrec.base.errors import UnigrecError
from unigrec.data.sources.impressions import Experiment
from unigrec.pipeline import plots
from unigrec.promotion.online import Finding, markdown, report_of, sentence

WEEK = 7 * 86_400
VERSIONS = {
    name: {"version": version, "bundle": version * 4} for name, version in (("champion", "1"), ("challenger", "2"))
}


def experiment(old: float, new: float, users: int = 4000, share: float = 0.5, **other: object) -> Experiment:
    """Users with a hit: exactly these shares of both versions' users. Each was shown two lists."""
    is_challenger = np.arange(users) < users * share
    place = np.where(is_challenger, np.arange(users) / (users * share), np.arange(users) / users)
    place = np.where(is_challenger, place, (np.arange(users) - users * share) / (users * (1 - share)))
    hits = (place < np.where(is_challenger, new, old)).astype(float)
    found = Experiment(
        name="2-vs-1",
        versions=VERSIONS,
        is_challenger=is_challenger,
        shares=np.full(users, share),
        both=np.zeros(users, bool),
        shown=np.full(users, 2.0),
        hits=hits,
        since=1_700_000_000,
        until=1_700_600_000,
        impressions=2 * users,
        open=0,
        others=[],
        days_only=False,
    )
    return found._replace(**other)


@pytest.mark.parametrize(
    ("found", "finding", "said"),
    [
        (
            experiment(0.10, 0.13),
            Finding.BETTER,
            "better: 13.00% of its users took what they were shown, against 10.00%",
        ),
        (experiment(0.13, 0.10), Finding.WORSE, "worse: 10.00%"),
        (experiment(0.10, 0.11), Finding.NO_DIFFERENCE, "No difference was found: 11.00%"),
        (experiment(0.0, 0.004), Finding.TOO_FEW, "Too few hits to tell: 0.40%"),
        (
            experiment(0.10, 0.13, shares=np.full(4000, 0.4)),
            Finding.MISMATCH,
            "2,000 users first, and its share makes 1,600",
        ),
    ],
)
def test_the_finding(found, finding, said):
    report = report_of(found, WEEK)
    assert report["finding"] == finding
    assert said in sentence(report)
    assert markdown(report).startswith(f"# Experiment 2-vs-1: {finding}\n\n{sentence(report)}\n")
    json.dumps(report, allow_nan=False)


def test_the_figures_are_of_users_and_of_impressions():
    report = report_of(experiment(0.10, 0.13), WEEK)
    assert report["users"] == {"champion": 2000, "challenger": 2000}
    assert report["by_user"]["difference"] == pytest.approx(0.03)
    assert report["by_impression"]["difference"] == pytest.approx(0.015)
    assert report["by_impression"]["p"] == pytest.approx(report["by_user"]["p"])  # each user has two impressions
    assert report["window_days"] == 7.0
    page = markdown(report)
    assert "| challenger: version 2 | 2,000 | 260 | 13.00% (11.53% to 14.47%) | 4,000 | 260 | 6.50%" in page
    assert "| users with a hit | +3.00 points | +30.0% | 95 %: +1.02 to +4.98 | 0.0029 |" in page


def test_what_a_reader_must_know_is_said():
    plain = markdown(report_of(experiment(0.10, 0.13), WEEK))
    assert "0 users were shown both versions" in plain
    both = np.arange(4000) % 50 == 0
    odd = experiment(0.10, 0.13, both=both, open=7, others=["9-vs-8"], days_only=True, impressions=8100)
    page = markdown(report_of(odd, WEEK))
    for text in ("80 users were shown both", "100 impressions", "More than 1%", "7 impressions are less", "9-vs-8"):
        assert text in page
    assert "days without times" in page
    assert "days without times" not in plain


def test_a_version_without_a_user_is_refused():
    with pytest.raises(UnigrecError, match="no user was shown the challenger first"):
        report_of(experiment(0.1, 0.1, is_challenger=np.zeros(4000, bool)), WEEK)


def test_the_picture_is_drawn_for_no_hits_too(tmp_path):
    for number, found in enumerate((experiment(0.10, 0.13), experiment(0.0, 0.0, versions=VERSIONS))):
        plots.experiment(report_of(found, WEEK), tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")
