"""What an experiment online found, as JSON and as Markdown: users of the challenger against users of the champion.

Shapes: U users.
"""

from __future__ import annotations

import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from unigrec.base.errors import UnigrecError
from unigrec.base.markdown import markdown_table
from unigrec.core.decisions.comparison import BY_IMPRESSION, BY_USER, CHALLENGER, CHAMPION
from unigrec.core.evaluation.experiment import FEWEST, Arm, difference, is_enough, mismatch, power

if TYPE_CHECKING:
    from unigrec.data.sources.impressions import Experiment

WAYS = {BY_USER: "users with a hit", BY_IMPRESSION: "impressions with a hit"}
LEVEL = 0.05  # of p, two-sided, for the verdict in words
NOTED_BOTH = 0.01  # share of users who saw both versions that is worth a note
DAY = 86_400


class Finding(StrEnum):
    """What the figures say."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no difference found"
    TOO_FEW = "too few"
    MISMATCH = "not to be trusted"


def report_of(found: Experiment, window: int) -> dict[str, Any]:
    """The figures of an experiment as plain JSON. window: seconds after an impression in which a hit counts.

    Raises UnigrecError if a version has no user.
    """
    masks = {CHAMPION: ~found.is_challenger, CHALLENGER: found.is_challenger}
    if empty := [variant for variant, mask in masks.items() if not mask.any()]:
        raise UnigrecError(f"experiment {found.name}: no user was shown the {empty[0]} first: nothing can be compared")
    split = mismatch(found.shares, found.is_challenger)
    users = {variant: _arm(found, mask, by_user=True) for variant, mask in masks.items()}
    report: dict[str, Any] = {
        "experiment": found.name,
        "made": _time(datetime.datetime.now(datetime.UTC).timestamp()),
        CHAMPION: found.versions[CHAMPION],
        CHALLENGER: found.versions[CHALLENGER],
        "since": _time(found.since),
        "until": _time(found.until),
        "window_days": window / DAY,
        "users": {variant: int(mask.sum()) for variant, mask in masks.items()},
        "users_of_both": int(found.both.sum()),
        "impressions": found.impressions,
        "impressions_left_out": found.impressions - int(found.shown.sum()),
        "impressions_open": found.open,
        "days_only": found.days_only,
        "others": found.others,
        "split": split,
        "enough": is_enough(users[CHAMPION], users[CHALLENGER]),
        "power": power(float(users[CHAMPION].rate), *(int(mask.sum()) for mask in masks.values())),
    }
    for way in WAYS:
        arms = {variant: _arm(found, mask, by_user=way == BY_USER) for variant, mask in masks.items()}
        gain = difference(arms[CHAMPION], arms[CHALLENGER])
        report[way] = {variant: arm.figures() for variant, arm in arms.items()}
        report[way] |= {name: float(value) for name, value in gain._asdict().items()}
    report["finding"] = _finding(report)
    return report


def _arm(found: Experiment, mask: np.ndarray, *, by_user: bool) -> Arm:
    shown, hits = found.shown[mask], found.hits[mask]
    return Arm(np.ones(len(shown)), (hits > 0).astype(float)) if by_user else Arm(shown, hits)


def _finding(report: dict[str, Any]) -> Finding:
    found = report[BY_USER]
    if report["split"]["is_mismatch"]:
        return Finding.MISMATCH
    if not report["enough"]:
        return Finding.TOO_FEW
    if found["p"] > LEVEL:
        return Finding.NO_DIFFERENCE
    return Finding.BETTER if found["difference"] > 0.0 else Finding.WORSE


def sentence(report: dict[str, Any]) -> str:
    """The finding in a line."""
    found, split = report[BY_USER], report["split"]
    rates = (
        f"{found[CHALLENGER]['rate']:.2%} of its users took what they were shown, against {found[CHAMPION]['rate']:.2%}"
    )
    gain = f"{_points(found['difference'])} points ({_interval(found)}, p {_p(found['p'])})"
    return {
        Finding.BETTER: f"The challenger is better: {rates}: {gain}.",
        Finding.WORSE: f"The challenger is worse: {rates}: {gain}.",
        Finding.NO_DIFFERENCE: f"No difference was found: {rates}: {gain}. There may be a smaller one.",
        Finding.TOO_FEW: f"Too few hits to tell: {rates}. Each version needs about {FEWEST:.0f} users with one.",
        Finding.MISMATCH: f"The figures are not to be trusted: the challenger has {split['found']:,} users first, and "
        f"its share makes {split['expected']:,.0f} of them (p {split['p']:.2g}). Find out why before anything else.",
    }[Finding(report["finding"])]


def markdown(report: dict[str, Any]) -> str:
    """The whole page."""
    parts = [
        f"# Experiment {report['experiment']}: {report['finding']}",
        sentence(report),
        _rates(report),
        _differences(report),
        _power(report),
        _counted(report),
    ]
    return "\n\n".join(parts) + "\n"


def _rates(report: dict[str, Any]) -> str:
    rows = []
    for variant in (CHAMPION, CHALLENGER):
        cells = [f"{variant}: version {report[variant]['version']}"]
        for way in WAYS:
            found = report[way][variant]
            cells += [f"{found['shown']:,.0f}", f"{found['hits']:,.0f}"]
            cells.append(f"{found['rate']:.2%} ({found['low']:.2%} to {found['high']:.2%})")
        rows.append(cells)
    return markdown_table(["", "users", "with a hit", "rate", "impressions", "with a hit", "rate"], rows)


def _differences(report: dict[str, Any]) -> str:
    rows = []
    for way, label in WAYS.items():
        found = report[way]
        old = found[CHAMPION]["rate"]
        relative = f"{found['difference'] / old:+.1%}" if old else ""
        points = f"{_points(found['difference'])} points"
        rows.append([label, points, relative, _interval(found), _p(found["p"])])
    head = ["challenger less champion", "difference", "relative", "interval", "p (two-sided)"]
    return markdown_table(head, rows)


def _power(report: dict[str, Any]) -> str:
    found = report["power"]
    text = f"With so many users, a gain of {100 * found['smallest']:.2f} points is found with 80 % probability"
    if found["relative"] is None:
        return f"{text}."
    return (
        f"{text} ({found['relative']:.0%} of the champion's rate). To find one of 10 % of that rate, about "
        f"{found['users_for_a_tenth']:,.0f} users are needed, split like these. p holds for one look, at an end that "
        "was fixed before."
    )


def _counted(report: dict[str, Any]) -> str:
    users, split = report["users"], report["split"]
    total = sum(users.values())
    lines = [
        f"- {report['impressions']:,} impressions, {report['since']} to {report['until']}. A hit: the user took one of "
        f"the items within {report['window_days']:g} days after the impression.",
        f"- {total:,} users, each counted under the version that was shown first. The challenger has "
        f"{split['found']:,}; its share makes {split['expected']:,.0f} (p of such a split: {split['p']:.2g}).",
        f"- {report['users_of_both']:,} users were shown both versions; {report['impressions_left_out']:,} impressions "
        "of the version that came second are left out.",
        "- Users are the unit of all intervals: impressions of one user are not independent.",
    ]
    if report["users_of_both"] > NOTED_BOTH * total:
        lines.append(f"- **More than {NOTED_BOTH:.0%} of the users were shown both**: that hides some of a difference.")
    if report["impressions_open"]:
        lines.append(
            f"- {report['impressions_open']:,} impressions are less than the window older than the last interaction: "
            "some of their hits are not in the file yet, for both versions alike."
        )
    if report["days_only"]:
        lines.append("- The interactions have days without times: those of the impression's day count as after it.")
    if report["others"]:
        lines.append(f"- The log has other experiments too: {', '.join(report['others'])} (--experiment).")
    return "\n".join(lines)


def _points(difference: float) -> str:
    """In points of a percentage."""
    return f"{100 * difference:+.2f}"


def _p(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else "below 0.0001"


def _interval(found: dict[str, Any]) -> str:
    return f"95 %: {_points(found['low'])} to {_points(found['high'])}"


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")
