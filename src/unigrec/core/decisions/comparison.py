"""From two models' figures on the same users to a decision with reasons. Pure, as `gates`: no files, no registry.

Shapes: U test users.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unigrec.core.decisions.gates import Decision, Gate, Metrics, floors
from unigrec.core.evaluation.bootstrap import bootstrap_means
from unigrec.core.evaluation.experiment import p_worse_by

if TYPE_CHECKING:
    from unigrec.config.schema import GateParams, PromotionParams

CHAMPION, CHALLENGER = "champion", "challenger"  # names of the two in reports and answers, aliases in the registry
BY_USER, BY_IMPRESSION = "by_user", "by_impression"  # how the report of an experiment counts hits
OVER_CHAMPION = "margin_over_champion"
ONLINE = "online"
SLICE = "slice: "


class Candidate(NamedTuple):
    """Figures of the challenger alone.

    own_decision: whether it passed the gates of its own run. metrics, health: as `gates.decide` reads them, measured
    today, without a teacher. latency_ms: of each single request. size_mb: of the whole folder.
    """

    own_decision: bool
    metrics: Metrics
    health: dict[str, Any]
    latency_ms: list[float]
    size_mb: float


class Pair(NamedTuple):
    """Figures of the challenger against the champion.

    challenger, champion: (U,) NDCG@10 of each user, the same users in the same order. slices: named (U,) masks.
    churn: share of the items in both catalogues with another identifier; None if they have no item in common.
    other_catalogue: whether both are one trained model, and items were added or removed. same: whether both are one
    bundle. online: the report of an experiment with this pair, as `unigrec online-report` writes it; None: there is
    none.
    """

    challenger: np.ndarray
    champion: np.ndarray
    slices: dict[str, np.ndarray]
    churn: float | None
    other_catalogue: bool = False
    same: bool = False
    online: dict[str, Any] | None = None


def compare(
    candidate: Candidate, pair: Pair | None, limits: GateParams, params: PromotionParams, seed: int
) -> Decision:
    """All gates that a challenger must pass to become champion. It has been loaded; if not, see `does_not_load`.

    Args:
        pair: None for the very first model, which must keep floors and budgets, but has no champion to beat.

    Returns:
        Every gate with its reason, those that refuse nothing last. A missing or non-finite figure refuses.
    """
    gates = [
        Gate("loads", 1.0, 1.0, True, f"a fresh process loads it and gets {len(candidate.latency_ms)} full answers"),
        _own_decision(candidate.own_decision),
        *floors(candidate.metrics, candidate.health, limits, (limits.protocol,)),
        _latency(candidate.latency_ms, params.max_latency_ms),
        _budget("size", "the bundle's folder", candidate.size_mb, params.max_size_mb, "MB"),
    ]
    notes: list[Gate] = []
    if pair is not None:
        found = _slices(pair, params, seed)
        notes = [gate for gate in found if gate.informational]
        gates.append(margin(pair, params, seed))
        if params.max_online_p and not (pair.other_catalogue or pair.same):
            gates.append(online(pair.online, params))
        gates += [gate for gate in found if not gate.informational]
        gates.append(_churn(pair.churn, params.max_churn))
    return Decision(all(gate.passed for gate in gates), [*gates, *notes])


def does_not_load(reason: str) -> Decision:
    """The decision on a bundle that does not load or does not answer."""
    return Decision(False, [Gate("loads", 0.0, 1.0, False, f"{reason}; nothing else was measured")])


def margin(pair: Pair, params: PromotionParams, seed: int) -> Gate:
    """Whether the challenger beats the champion, or at least does not lose to it; one-sided paired bootstrap.

    Mode `better`: the mean difference is above 0, and at most `max_p` of the resamples are at or below 0. Mode
    `not_worse`: at most `max_p` of the resamples lose `max_loss` of the champion's NDCG@10 or more. A tie, in which
    every user's gain is equal, passes in neither mode: such a promotion could only do harm. If only items were added or
    removed, a tie is what is wanted, and otherwise the mode is `not_worse`. The champion's own bundle passes: the
    champion stays, whatever is decided.
    """
    new, old = pair.challenger, pair.champion
    if not (np.isfinite(new).all() and np.isfinite(old).all() and len(new)):
        return Gate(
            OVER_CHAMPION, None, params.max_p, False, "NDCG@10 against the champion is missing or not a finite number"
        )
    difference = new - old
    if pair.same:
        reason = f"the champion's own bundle: NDCG@10 {new.mean():.4f}, and nothing would change"
        return Gate(OVER_CHAMPION, 0.0, params.max_p, True, reason)
    if not difference.any() and pair.other_catalogue:
        return Gate(
            OVER_CHAMPION,
            0.0,
            params.max_p,
            True,
            f"the champion's model with another catalogue: NDCG@10 {new.mean():.4f}, equal for each of {_users(new)}",
        )
    if not difference.any():
        return Gate(
            OVER_CHAMPION, 1.0, params.max_p, False, f"a tie: NDCG@10 {new.mean():.4f}, equal for each of {_users(new)}"
        )
    must_win = params.mode == "better" and not pair.other_catalogue
    bound = 0.0 if must_win else -params.max_loss * float(old.mean())
    means = bootstrap_means(difference, params.resamples, seed)
    p = float((means <= bound).mean())
    passed = p <= params.max_p and float(difference.mean()) > bound
    low, high = np.quantile(means, [0.025, 0.975])
    doubt = "no better" if must_win else f"worse by {params.max_loss:.1%} or more"
    return Gate(
        OVER_CHAMPION,
        p,
        params.max_p,
        passed,
        f"NDCG@10 {new.mean():.4f} against {old.mean():.4f}, {difference.mean():+.4f} on the same {_users(new)} "
        f"(95 % interval {low:+.4f} to {high:+.4f}); p of being {doubt}: {p:.4f}, allowed {params.max_p:g}",
    )


def online(report: dict[str, Any] | None, params: PromotionParams) -> Gate:
    """Whether users of the challenger took what they were shown more often than those of the champion.

    Mode `better`: p of being no better is at most `max_online_p`. Mode `not_worse`: p of losing the share `max_loss` of
    the champion's rate is. What cannot be read, or is not to be trusted, refuses.
    """
    limit = params.max_online_p
    if report is None:
        how = "serve it with --challenger and --impressions, then run unigrec online-report"
        return Gate(ONLINE, None, limit, False, f"there is no report of an experiment with these two models; {how}")
    name = report.get("experiment")
    try:
        found, enough, is_uneven = report[BY_USER], report["enough"], report["split"]["is_mismatch"]
        old, new = ((found[name]["rate"], found[name]["variance"]) for name in (CHAMPION, CHALLENGER))
        users = "{champion:,} and {challenger:,} users".format_map(report["users"])
        must_win = params.mode == "better"
        p = float(found["p_no_better"] if must_win else p_worse_by(params.max_loss, old, new))
        figures = [p, *old, *new]
    except (KeyError, TypeError, ValueError):
        figures = [math.nan]
    if not all(map(math.isfinite, figures)):
        return Gate(ONLINE, None, limit, False, f"the report of experiment {name} lacks a figure, or it is no number")
    if is_uneven or not enough:
        why = "its users were not split as asked for" if is_uneven else "too few users had a hit"
        return Gate(ONLINE, p, limit, False, f"experiment {name} decides nothing: {why} ({users})")
    doubt = "no better" if must_win else f"worse by {params.max_loss:.1%} or more"
    reason = (
        f"experiment {name}: {new[0]:.2%} of the users took what they were shown, against {old[0]:.2%} ({users}); p of "
        f"being {doubt}: {p:.4f}, allowed {limit:g}"
    )
    return Gate(ONLINE, p, limit, p <= limit, reason)


def _slices(pair: Pair, params: PromotionParams, seed: int) -> list[Gate]:
    """One gate per slice. The slices of one kind, such as all brands, share `max_p`: one of many loses by chance."""
    sizes = {name: int(mask.sum()) for name, mask in pair.slices.items()}
    kinds = Counter(_kind(name) for name, size in sizes.items() if size >= params.min_slice_users)
    return [
        _slice(name, mask, pair, params, seed, max_p=params.max_p / max(kinds[_kind(name)], 1))
        for name, mask in pair.slices.items()
        if sizes[name]
    ]


def _kind(name: str) -> str:
    """`target brand` of the slices `target brand: Canon` and `target brand, no value`."""
    return re.split("[:,] ", name)[0]


def _slice(name: str, mask: np.ndarray, pair: Pair, params: PromotionParams, seed: int, max_p: float) -> Gate:
    """A slice refuses if it loses more than the bound and chance does not explain the loss.

    Both must hold, since of many slices one always loses a little. Chance explains the loss if more than `max_p` of the
    resamples of the slice's users lose nothing.
    """
    new, old = pair.challenger[mask], pair.champion[mask]
    small = len(new) < params.min_slice_users
    if not (np.isfinite(new).all() and np.isfinite(old).all()):
        return Gate(SLICE + name, None, params.max_slice_drop, False, "NDCG@10 is not a finite number")
    change = float(new.mean() / old.mean()) - 1.0 if old.mean() > 0.0 else 0.0
    means = bootstrap_means(new - old, params.resamples, seed)
    chance = float((means >= 0.0).mean())
    reason = f"NDCG@10 {new.mean():.4f} against {old.mean():.4f} ({change:+.1%}) on {_users(new)}"
    over = -change > params.max_slice_drop
    if over:
        reason += f"; p of not losing at all: {chance:.4f}, refuses up to {max_p:.2g}"
    if small:
        reason += f"; fewer than {params.min_slice_users}, so it refuses nothing"
    passed = not (over and chance <= max_p)
    return Gate(SLICE + name, 0.0 - change, params.max_slice_drop, passed, reason, informational=small)


def _own_decision(passed: bool) -> Gate:
    return Gate(
        "own_decision",
        float(passed),
        1.0,
        passed,
        f"the gates of its own run {'passed' if passed else 'refused'} it",
    )


def _latency(milliseconds: list[float], limit: float) -> Gate:
    known = [value for value in milliseconds if math.isfinite(value)]
    value = float(np.quantile(known, 0.95)) if known and len(known) == len(milliseconds) else None
    return _budget("latency_p95", f"95th percentile of {len(milliseconds)} single requests", value, limit, "ms")


def _budget(name: str, what: str, value: float | None, limit: float, unit: str) -> Gate:
    if value is None or not math.isfinite(value):
        return Gate(name, None, limit, False, f"{what} is missing or not a finite number")
    return Gate(name, value, limit, value <= limit, f"{what}: {value:.3g} {unit}; allowed up to {limit:g} {unit}")


def _churn(value: float | None, limit: float) -> Gate:
    if value is None:
        return Gate("churn", None, limit, True, "the catalogues have no item in common")
    if not math.isfinite(value):
        return Gate("churn", None, limit, False, "churn is not a finite number")
    reason = f"{value:.1%} of the items in both catalogues have another identifier; allowed up to {limit:.1%}"
    return Gate("churn", value, limit, value <= limit, reason)


def _users(gains: np.ndarray) -> str:
    return f"{len(gains):,} user{'s' * (len(gains) != 1)}"
