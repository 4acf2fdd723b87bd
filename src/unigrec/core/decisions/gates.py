"""Metrics and thresholds to a decision with reasons. Pure: no files, no registry, no exit codes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from unigrec.config.schema import GateParams

Metrics = dict[str, dict[str, dict[str, Any]]]  # model -> protocol -> metric -> value


class Gate(NamedTuple):
    """One question to the model. `value` is None where it could not be computed; such a gate is not passed.

    An informational gate is there to be read: it says where the identifiers miss a target, and refuses nothing.
    """

    name: str
    value: float | None
    threshold: float
    passed: bool
    reason: str
    informational: bool = False


class Decision(NamedTuple):
    """`passed` only when every gate passed that is not informational."""

    passed: bool
    gates: list[Gate]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON: {passed, gates: [{name, value, threshold, passed, reason, informational}]}."""
        return {"passed": self.passed, "gates": [gate._asdict() for gate in self.gates]}


def decide(metrics: Metrics, health: dict[str, Any], params: GateParams) -> Decision:
    """Hold the student's metrics and its identifiers' health against the thresholds.

    Args:
        metrics: {model: {protocol: {"recall_at_10": share, "ndcg_at_10": share}}} for the models popularity,
            cooccurrence, teacher and student; `params.protocol` names the protocol that is read.
        health: what `identifiers.health` returns; `collision_rate` (share of items) and `codebook_utilisation` (share
            of used codewords, one a level) can refuse, the rest is for the informational gates.
        params: the thresholds.

    Returns:
        Every gate with its value, threshold and a reason in words, the informational ones last. A missing or non-finite
        figure refuses the model; it never raises and never passes silently.
    """

    ndcg, teacher = (_number(_lookup(metrics, name, params.protocol, "ndcg_at_10")) for name in ("student", "teacher"))
    gates = [
        *floors(metrics, health, params),
        _drop_below_teacher(ndcg, teacher, params.max_drop_below_teacher),
    ]
    return Decision(all(gate.passed for gate in gates), [*gates, *identifier_notes(health, params)])


def floors(metrics: Metrics, health: dict[str, Any], params: GateParams) -> list[Gate]:
    """What a model must reach whatever else there is: absolute floors, margins over the baselines, identifier health.

    Args and missing figures: as for `decide`; of the metrics, a teacher is not needed.
    """

    def metric(model: str, name: str) -> float | None:
        return _number(_lookup(metrics, model, params.protocol, name))

    ndcg = metric("student", "ndcg_at_10")
    return [
        _finite(metrics, health),
        _at_least("recall_at_10", "student Recall@10", metric("student", "recall_at_10"), params.min_recall_at_10),
        _at_least("ndcg_at_10", "student NDCG@10", ndcg, params.min_ndcg_at_10),
        _margin("popularity", ndcg, metric("popularity", "ndcg_at_10"), params.min_margin_over_popularity),
        _margin("cooccurrence", ndcg, metric("cooccurrence", "ndcg_at_10"), params.min_margin_over_cooccurrence),
        _collisions(_number(health.get("collision_rate")), params.max_collision_rate),
        _utilisation(health.get("codebook_utilisation"), params.min_codebook_utilisation),
    ]


def identifier_notes(health: dict[str, Any], params: GateParams) -> list[Gate]:
    """The informational gates. health: what `identifiers.health` returns, of any tokenizer."""
    gini, shares = _numbers(health.get("gini_of_prefixes")), _numbers(health.get("entropy_share"))
    found, ceiling = _number(health.get("hit_rate_quantized")), _number(health.get("hit_rate_item_embedding"))
    gates = [
        _within(
            "gini_of_first_level", "Gini of the items per first code", gini[:1], params.note_max_gini_of_first_level
        ),
        _hit_rate_kept(found, ceiling, params.note_min_hit_rate_kept),
        _within(
            "soft_hard_disagreement",
            "share of items whose soft and hard codes differ",
            _numbers([health.get("soft_hard_disagreement")]),
            params.note_max_soft_hard_disagreement,
        ),
        _entropy(shares, params.note_min_entropy_share),
    ]
    return [gate._replace(informational=True) for gate in gates]


def _finite(metrics: Metrics, health: dict[str, Any]) -> Gate:
    broken = [name for name, value in _figures({"metrics": metrics, "health": health}) if not math.isfinite(value)]
    reason = "not finite: " + ", ".join(broken) if broken else "every figure is a finite number"
    return Gate("finite", float(len(broken)), 0.0, not broken, reason)


def _figures(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _figures(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _figures(inner, f"{name}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


def _at_least(name: str, what: str, value: float | None, threshold: float) -> Gate:
    if value is None:
        return _missing(name, what, threshold)
    passed = value >= threshold
    relation = "reaches" if passed else "is below"
    return Gate(name, value, threshold, passed, f"{what} {value:.4f} {relation} the floor {threshold:.4f}")


def _margin(baseline: str, ndcg: float | None, against: float | None, threshold: float) -> Gate:
    name = f"margin_over_{baseline}"
    if ndcg is None or against is None:
        return _missing(name, f"NDCG@10 of {'student' if ndcg is None else baseline}", threshold)
    if against <= 0.0:  # no relative margin exists over a baseline that scores nothing
        passed = ndcg > 0.0
        return Gate(name, None, threshold, passed, f"{baseline} scores 0; student NDCG@10 is {ndcg:.4f}")
    value = ndcg / against - 1.0
    passed = value >= threshold
    return Gate(
        name,
        value,
        threshold,
        passed,
        f"student NDCG@10 {ndcg:.4f} is {value:+.1%} against {baseline} {against:.4f}; required: {threshold:+.1%}",
    )


def _drop_below_teacher(ndcg: float | None, teacher: float | None, threshold: float) -> Gate:
    name = "drop_below_teacher"
    if ndcg is None or teacher is None:
        return _missing(name, f"NDCG@10 of {'student' if ndcg is None else 'teacher'}", threshold)
    value = 1.0 - ndcg / teacher if teacher > 0.0 else 0.0
    return Gate(
        name,
        value,
        threshold,
        value <= threshold,
        f"student NDCG@10 {ndcg:.4f} is {-value:+.1%} against the teacher {teacher:.4f}; allowed: {-threshold:+.1%}",
    )


def _collisions(value: float | None, threshold: float) -> Gate:
    if value is None:
        return _missing("collision_rate", "collision rate", threshold)
    return Gate(
        "collision_rate",
        value,
        threshold,
        value <= threshold,
        f"{value:.1%} of the items share all codes with another; allowed up to {threshold:.1%}",
    )


def _utilisation(levels: Any, threshold: float) -> Gate:
    known = _numbers(levels)
    if not known:
        return _missing("codebook_utilisation", "codebook utilisation of every level", threshold)
    worst = min(known)
    return Gate(
        "codebook_utilisation",
        worst,
        threshold,
        worst >= threshold,
        f"level {known.index(worst) + 1} uses the least of its codebook, {worst:.1%}; required: {threshold:.1%}",
    )


def _within(name: str, what: str, values: list[float], threshold: float) -> Gate:
    if not values:
        return _missing(name, what, threshold)
    passed = values[0] <= threshold
    relation = "is within" if passed else "is above"
    return Gate(name, values[0], threshold, passed, f"{what}: {values[0]:.4f} {relation} the target {threshold:.4f}")


def _hit_rate_kept(quantized: float | None, embedding: float | None, threshold: float) -> Gate:
    name = "hit_rate_kept"
    if quantized is None or embedding is None:
        return _missing(name, "hit rate of identifiers and item embeddings", threshold)
    if embedding <= 0.0:
        return Gate(name, None, threshold, False, "the item embeddings themselves find no co-occurring item")
    value = quantized / embedding
    return Gate(
        name,
        value,
        threshold,
        value >= threshold,
        f"identifiers find {quantized:.2%} of what co-occurs, item embeddings {embedding:.2%}: {value:.0%} is kept; "
        f"target: {threshold:.0%}",
    )


def _entropy(shares: list[float], threshold: float) -> Gate:
    if not shares:
        return _missing("entropy_share", "entropy of every level", threshold)
    worst = min(shares)
    return Gate(
        "entropy_share",
        worst,
        threshold,
        worst >= threshold,
        f"level {shares.index(worst) + 1} has the least entropy, {worst:.1%} of log2 K; target: {threshold:.1%}",
    )


def _missing(name: str, what: str, threshold: float) -> Gate:
    return Gate(name, None, threshold, False, f"{what} is missing or not a finite number")


def _lookup(metrics: Metrics, model: str, protocol: str, name: str) -> Any:
    found: Any = metrics
    for key in (model, protocol, name):
        if not isinstance(found, dict):
            return None
        found = found.get(key)
    return found


def _numbers(values: Any) -> list[float]:
    """A list of numbers; empty where it is no list, or one of them is no finite number."""
    found = [_number(value) for value in values] if isinstance(values, list | tuple) else []
    known = [value for value in found if value is not None]
    return known if len(known) == len(found) else []


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def gate_rows(decision: dict[str, Any]) -> list[list[str]]:
    """A decision's gates as rows of name, verdict and reason."""
    return [[gate["name"], gate_verdict(gate), gate["reason"]] for gate in decision["gates"]]


def gate_verdict(gate: dict[str, Any]) -> str:
    """`pass` or `REFUSED`; for an informational gate, whether its target was met."""
    if gate.get("informational", False):  # absent from decisions of earlier versions
        return "note: met" if gate["passed"] else "note: missed"
    return "pass" if gate["passed"] else "REFUSED"
