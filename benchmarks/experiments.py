"""`python -m benchmarks.experiments`: how often does a report of an experiment find a difference, true or not?

Visitors differ in how eager they are, and come one to six times. Each line is many simulated experiments of one size
and share, judged as `unigrec online-report` judges: where both versions are equal, 5 % of them should find a
difference; where the challenger is better, as many as its power says. A test that takes impressions for independent is
shown too. docs/serving.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np

from unigrec.base.markdown import markdown_table
from unigrec.core.evaluation.experiment import Arm, difference, power

LEVEL = 0.05
AT_ONCE = 200  # experiments in memory
CASES = ((2000, 0.5), (2000, 0.1), (10_000, 0.1))  # users, share of the challenger
RATE = 0.03  # mean chance of a hit per impression


def visitors(experiments: int, users: int, rate: float, chance: np.random.Generator) -> Arm:
    """Users of one version: impressions of each, and those with a hit."""
    eager = np.minimum(rate * chance.gamma(0.5, 2.0, (experiments, users)), 0.9)
    shown = chance.integers(1, 7, (experiments, users))
    return Arm(shown, chance.binomial(shown, eager))


def by_user(arm: Arm) -> Arm:
    return Arm(np.ones(arm.hits.shape), (arm.hits > 0).astype(float))


def by_impression(arm: Arm) -> Arm:
    return arm


def naive(arm: Arm) -> Arm:
    """As if every impression were a user of its own: the same sums, spread over users with one impression each."""
    shown, hits = arm.shown.sum(-1), arm.hits.sum(-1)
    place = np.arange(int(shown.max()))
    return Arm((place < shown[:, None]).astype(float), (place < hits[:, None]).astype(float))


WAYS: dict[str, Callable[[Arm], Arm]] = {"by user": by_user, "by impression": by_impression, "naive": naive}


def found(users: int, share: float, gain: float, experiments: int, seed: int) -> dict[str, float]:
    """Share of the experiments that find a difference, by way; and `power`, which the reports promise by user.

    gain: of the challenger's rate, relative.
    """
    chance = np.random.default_rng(seed)
    new = round(users * share)
    count, rates = dict.fromkeys(WAYS, 0), [0.0, 0.0]
    for start in range(0, experiments, AT_ONCE):
        size = min(AT_ONCE, experiments - start)
        arms = [visitors(size, users - new, RATE, chance), visitors(size, new, RATE * (1.0 + gain), chance)]
        for name, way in WAYS.items():
            count[name] += int((difference(*map(way, arms)).p <= LEVEL).sum())
        rates = [rate + by_user(arm).rate.sum() / experiments for rate, arm in zip(rates, arms, strict=True)]
    shares = {name: number / experiments for name, number in count.items()}
    smallest = power(float(rates[0]), users - new, new)["smallest"] or 0.0
    return shares | {"gain by user": float(rates[1] - rates[0]), "found with 80 %": smallest}


def main(arguments: list[str] | None = None) -> int:
    """Print the table. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=4000, help="simulated per line (default: 4000)")
    parser.add_argument("--gain", type=float, default=0.5, help="of the better challenger, relative (default: 0.5)")
    parser.add_argument("--seed", type=int, default=2026)
    given = parser.parse_args(arguments)
    rows = []
    for users, share in CASES:
        for gain in (0.0, given.gain):
            shares = found(users, share, gain, given.experiments, given.seed)
            cells = [f"{users:,}", f"{share:g}", f"{gain:+.0%}", *(f"{shares[name]:.1%}" for name in WAYS)]
            points = (f"{100 * shares[name]:.2f}" for name in ("gain by user", "found with 80 %"))
            rows.append([*cells, *points])
    head = [
        "users",
        "share",
        "challenger",
        *(f"found, {name}" for name in WAYS),
        "gain, points",
        "of 80 % power, points",
    ]
    print(f"{given.experiments:,} experiments per line, seed {given.seed}; a difference is found if p <= {LEVEL}.\n")
    print(markdown_table(head, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
