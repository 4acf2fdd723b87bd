"""From metrics and thresholds to a decision with reasons. Pure: no files, no registry, no exit codes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from unigrec.core.evaluation.protocol import SHIPPED, Protocol

if TYPE_CHECKING:
    from unigrec.config.schema import GateParams

Metrics = dict[str, dict[str, dict[str, Any]]]  # model -> protocol -> metric -> value


class Outcome(StrEnum):
    """What to do with a challenger. KEEP: the champion stays, since the challenger is no better."""

    PROMOTE = "promote"
    KEEP = "keep"
    REFUSE = "refuse"


class Gate(NamedTuple):
    """One requirement of the model. `value` is None if it could not be computed; such a gate does not pass.

    An informational gate reports whether the identifiers meet a target; it refuses nothing.
    """

    name: str
    value: float | None
    threshold: float
    passed: bool
    reason: str
    informational: bool = False

    @property
    def refuses(self) -> bool:
        """Whether the model is refused for it."""
        return not self.passed and not self.informational


class Decision(NamedTuple):
    """`passed` if every gate that is not informational passed."""

    passed: bool
    gates: list[Gate]

    @property
    def refusing(self) -> list[Gate]:
        """The gates that refuse the model, in their order."""
        return [gate for gate in self.gates if gate.refuses]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON: {passed, gates: [{name, value, threshold, passed, reason, informational}]}."""
        return {"passed": self.passed, "gates": [gate._asdict() for gate in self.gates]}


class Rule(NamedTuple):
    """What a gate requires of its figure. reason: takes {what}, {value}, {threshold}, {verdict} and further figures."""

    relation: tuple[str, str]
    what: str
    reason: str


AT_LEAST, AT_MOST = ("reaches", "is below"), ("is within", "is above")  # the verdict on a figure that passes, or fails
FLOOR = "{protocol} {what} {value:.4f} {verdict} the floor {threshold:.4f}"
TARGET = "{what}: {value:.4f} {verdict} the target {threshold:.4f}"
MARGIN = "{protocol} NDCG@10 {ndcg:.4f} is {value:+.1%} against {model} {against:.4f}; required: {threshold:+.1%}"
DROP = (
    "{protocol} NDCG@10 {ndcg:.4f} is {change:+.1%} against the teacher {against:.4f} (95 % interval {low:+.1%} to "
    "{high:+.1%}); lost beyond chance: {value:.1%}, allowed: {threshold:.1%}"
)
COLLISIONS = "{value:.1%} of the items share all codes with another; allowed up to {threshold:.1%}"
UTILISATION = "level {level} uses the least of its codebook, {value:.1%}; required: {threshold:.1%}"
ENTROPY = "level {level} has the least entropy, {value:.1%} of log2 K; target: {threshold:.1%}"
HITS_KEPT = (
    "identifiers find {quantized:.2%} of what co-occurs, item embeddings {embedding:.2%}: {value:.0%} is kept; "
    "target: {threshold:.0%}"
)
RULES = {
    "recall_at_10": Rule(AT_LEAST, "Recall@10", FLOOR),
    "ndcg_at_10": Rule(AT_LEAST, "NDCG@10", FLOOR),
    "margin_over_popularity": Rule(AT_LEAST, "{protocol} NDCG@10 of {lacking}", MARGIN),
    "margin_over_cooccurrence": Rule(AT_LEAST, "{protocol} NDCG@10 of {lacking}", MARGIN),
    "margin_over_own_items": Rule(AT_LEAST, "{protocol} NDCG@10 of {lacking}", MARGIN),
    "margin_over_neighbours": Rule(AT_LEAST, "{protocol} NDCG@10 of {lacking}", MARGIN),
    "drop_below_teacher": Rule(AT_MOST, "{protocol} NDCG@10 of {lacking}", DROP),
    "collision_rate": Rule(AT_MOST, "collision rate", COLLISIONS),
    "codebook_utilisation": Rule(AT_LEAST, "codebook utilisation of every level", UTILISATION),
    "gini_of_first_level": Rule(AT_MOST, "Gini of the items per first code", TARGET),
    "hit_rate_kept": Rule(AT_LEAST, "hit rate of identifiers and item embeddings", HITS_KEPT),
    "soft_hard_disagreement": Rule(AT_MOST, "share of items whose soft and hard codes differ", TARGET),
    "entropy_share": Rule(AT_LEAST, "entropy of every level", ENTROPY),
}


def decide(
    metrics: Metrics, against: dict[str, dict[str, Any]], health: dict[str, Any], params: GateParams
) -> Decision:
    """Compare the metrics of the shipped ranking and the health of its identifiers with the thresholds.

    Of figures that every protocol has, the worst counts.

    Args:
        metrics: {model: {protocol: {"recall_at_10": share, "ndcg_at_10": share}}} for the models popularity,
            cooccurrence, own_items, neighbours, teacher and shipped, in both protocols.
        against: {protocol: {"teacher": {"low": difference, "high": difference}}}, the 95 % interval of shipped less
            teacher in NDCG@10, over the same users.
        health: what `identifiers.health` returns; `collision_rate` (share of items) and `codebook_utilisation` (share
            of used codewords per level) can refuse, the rest is for the informational gates.
        params: the thresholds.

    Returns:
        Every gate with its value, threshold and reason, the informational ones last. A missing or non-finite figure
        refuses the model; it never raises and never passes silently.
    """
    gates = [
        *floors(metrics, health, params, tuple(Protocol)),
        _worst([_margin("own_items", metrics, protocol, params.min_margin_over_own_items) for protocol in Protocol]),
        _worst([_margin("neighbours", metrics, protocol, params.min_margin_over_neighbours) for protocol in Protocol]),
        _worst([_drop_below_teacher(metrics, against, protocol, params) for protocol in Protocol]),
    ]
    return Decision(all(gate.passed for gate in gates), [*gates, *identifier_notes(health, params)])


def floors(metrics: Metrics, health: dict[str, Any], params: GateParams, protocols: Sequence[str]) -> list[Gate]:
    """The requirements that need no other trained model: floors, margins over the baselines, identifier health.

    Args and missing figures: as for `decide`; metrics are needed of popularity, cooccurrence and shipped, in the given
    protocols.
    """

    def floor(name: str, threshold: float) -> Gate:
        return _worst(
            [
                _gate(name, _metric(metrics, SHIPPED, protocol, name), threshold, protocol=protocol)
                for protocol in protocols
            ]
        )

    def margin(model: str, threshold: float) -> Gate:
        return _worst([_margin(model, metrics, protocol, threshold) for protocol in protocols])

    return [
        _finite(metrics, health),
        floor("recall_at_10", params.min_recall_at_10),
        floor("ndcg_at_10", params.min_ndcg_at_10),
        margin("popularity", params.min_margin_over_popularity),
        margin("cooccurrence", params.min_margin_over_cooccurrence),
        _gate("collision_rate", _number(health.get("collision_rate")), params.max_collision_rate),
        _worst_level("codebook_utilisation", health, params.min_codebook_utilisation),
    ]


def identifier_notes(health: dict[str, Any], params: GateParams) -> list[Gate]:
    """The informational gates. health: what `identifiers.health` returns, of any tokenizer."""
    gini = _numbers(health.get("gini_of_prefixes"))
    disagreement = _number(health.get("soft_hard_disagreement"))
    gates = [
        _gate("gini_of_first_level", gini[0] if gini else None, params.note_max_gini_of_first_level),
        _hit_rate_kept(health, params.note_min_hit_rate_kept),
        _gate("soft_hard_disagreement", disagreement, params.note_max_soft_hard_disagreement),
        _worst_level("entropy_share", health, params.note_min_entropy_share),
    ]
    return [gate._replace(informational=True) for gate in gates]


def _gate(name: str, value: float | None, threshold: float, **figures: Any) -> Gate:
    """The gate of `RULES[name]`. Without a value it does not pass."""
    relation, what, reason = RULES[name]
    if value is None:
        return Gate(name, None, threshold, False, f"{what.format(**figures)} is missing or not a finite number")
    passed = value >= threshold if relation is AT_LEAST else value <= threshold
    figures |= {"what": what, "value": value, "threshold": threshold, "verdict": relation[0 if passed else 1]}
    return Gate(name, value, threshold, passed, reason.format(**figures))


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


def _worst(gates: list[Gate]) -> Gate:
    """Of one gate in several protocols, one that refuses if any does, else the one with the worst figure."""
    sign = 1.0 if RULES[gates[0].name].relation is AT_LEAST else -1.0
    return min(gates, key=lambda gate: (gate.passed, gate.value is not None, sign * (gate.value or 0.0)))


def _margin(model: str, metrics: Metrics, protocol: str, threshold: float) -> Gate:
    name = f"margin_over_{model}"
    ndcg, against = (_metric(metrics, which, protocol, "ndcg_at_10") for which in (SHIPPED, model))
    if ndcg is None or against is None:
        return _gate(name, None, threshold, protocol=protocol, lacking=SHIPPED if ndcg is None else model)
    if against <= 0.0:  # no relative margin exists over a baseline that scores nothing
        return Gate(name, None, threshold, ndcg > 0.0, f"{model} scores 0; {protocol} NDCG@10 is {ndcg:.4f}")
    return _gate(name, ndcg / against - 1.0, threshold, protocol=protocol, model=model, ndcg=ndcg, against=against)


def _drop_below_teacher(
    metrics: Metrics, against: dict[str, dict[str, Any]], protocol: str, params: GateParams
) -> Gate:
    """What the shipped ranking certainly loses against the teacher: a difference that chance explains is no loss."""
    name, threshold = "drop_below_teacher", params.max_drop_below_teacher
    ndcg, teacher = (_metric(metrics, which, protocol, "ndcg_at_10") for which in (SHIPPED, "teacher"))
    bounds = against.get(protocol, {}).get("teacher", {}) if isinstance(against, dict) else {}
    low, high = (_number(bounds.get(name)) for name in ("low", "high"))
    if ndcg is None or teacher is None or low is None or high is None:
        lacking = SHIPPED if ndcg is None else "teacher" if teacher is None else "shipped less teacher, its interval,"
        return _gate(name, None, threshold, protocol=protocol, lacking=lacking)
    scale = teacher if teacher > 0.0 else 1.0
    return _gate(
        name,
        max(0.0, -high / scale),
        threshold,
        protocol=protocol,
        ndcg=ndcg,
        against=teacher,
        change=(ndcg - teacher) / scale,
        low=low / scale,
        high=high / scale,
    )


def _hit_rate_kept(health: dict[str, Any], threshold: float) -> Gate:
    quantized, embedding = (_number(health.get(f"hit_rate_{of}")) for of in ("quantized", "item_embedding"))
    if quantized is None or embedding is None:
        return _gate("hit_rate_kept", None, threshold)
    if embedding <= 0.0:
        reason = "the item embeddings themselves find no co-occurring item"
        return Gate("hit_rate_kept", None, threshold, False, reason)
    return _gate("hit_rate_kept", quantized / embedding, threshold, quantized=quantized, embedding=embedding)


def _worst_level(name: str, health: dict[str, Any], threshold: float) -> Gate:
    """Of a figure per level, the lowest."""
    levels = _numbers(health.get(name))
    worst = min(levels, default=None)
    return _gate(name, worst, threshold, level=0 if worst is None else levels.index(worst) + 1)


def _metric(metrics: Metrics, model: str, protocol: str, name: str) -> float | None:
    found: Any = metrics
    for key in (model, protocol, name):
        if not isinstance(found, dict):
            return None
        found = found.get(key)
    return _number(found)


def _numbers(values: Any) -> list[float]:
    """The numbers of a list; none if it is no list, or if one of them is not a finite number."""
    found = [_number(value) for value in values] if isinstance(values, list | tuple) else []
    known = [value for value in found if value is not None]
    return known if len(known) == len(found) else []


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def is_refusing(gate: dict[str, Any]) -> bool:
    """`Gate.refuses`, of a gate of a stored decision."""
    return not gate["passed"] and not gate.get("informational", False)  # absent from decisions of earlier versions


def gate_rows(decision: dict[str, Any]) -> list[list[str]]:
    """A decision's gates as rows of name, verdict and reason."""
    return [[gate["name"], gate_verdict(gate), gate["reason"]] for gate in decision["gates"]]


def gate_verdict(gate: dict[str, Any]) -> str:
    """`pass` or `REFUSED`; for an informational gate, whether its target was met."""
    if gate.get("informational", False):
        return "note: met" if gate["passed"] else "note: missed"
    return "pass" if gate["passed"] else "REFUSED"
