"""Gates: each refuses for its own reason, and nothing missing or broken ever passes."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.gate_figures import GOOD_HEALTH, GOOD_INTERVALS, PARAMS, against_teacher, good_metrics, scores
from unigrec.core.decisions.gates import decide


def refused(metrics: dict, health: dict, against: dict = GOOD_INTERVALS) -> list[str]:
    return [gate.name for gate in decide(metrics, against, health, PARAMS).refusing]


def missed(health: dict) -> list[str]:
    decision = decide(good_metrics(), GOOD_INTERVALS, health, PARAMS)
    assert decision.passed, "an informational gate refuses nothing"
    return [gate.name for gate in decision.gates if gate.informational and not gate.passed]


def test_a_good_model_passes_every_gate_with_a_reason_each():
    decision = decide(good_metrics(), GOOD_INTERVALS, GOOD_HEALTH, PARAMS)
    assert decision.passed
    assert len({gate.name for gate in decision.gates}) == len(decision.gates) == 14
    assert [gate.informational for gate in decision.gates] == [False] * 10 + [True] * 4
    assert all(gate.passed for gate in decision.gates)
    assert all(gate.reason for gate in decision.gates)
    json.dumps(decision.as_dict(), allow_nan=False)


MARGINS = [f"margin_over_{model}" for model in ("popularity", "cooccurrence", "own_items", "neighbours")]


@pytest.mark.parametrize("protocols", [("unmasked",), ("masked",), ("unmasked", "masked")])
@pytest.mark.parametrize(
    ("shipped", "expected"),
    [
        ((0.019, 0.055), ["recall_at_10"]),
        ((0.09, 0.0219), [*MARGINS, "drop_below_teacher"]),
        ((0.09, 0.0319), [*MARGINS[1:], "drop_below_teacher"]),
        ((0.09, 0.0399), [MARGINS[3], "drop_below_teacher"]),
        ((0.09, 0.0429), ["drop_below_teacher"]),
        ((0.09, 0.0431), []),
    ],
)
def test_each_threshold_is_held_in_every_protocol(shipped, expected, protocols):
    metrics, against = good_metrics(), against_teacher(0.055)
    for protocol in protocols:
        metrics["shipped"][protocol] = scores(*shipped)[protocol]
        against[protocol] = against_teacher(shipped[1])[protocol]
    assert refused(metrics, GOOD_HEALTH, against) == expected


def test_a_drop_that_chance_explains_is_none():
    metrics = good_metrics() | {"shipped": scores(0.09, 0.044)}
    wide, narrow = against_teacher(0.044, uncertain=0.0011), against_teacher(0.044, uncertain=0.0009)
    assert refused(metrics, GOOD_HEALTH, wide) == []
    assert refused(metrics, GOOD_HEALTH, narrow) == ["drop_below_teacher"]


@pytest.mark.parametrize("against", [{}, {"unmasked": {}}, {"unmasked": {"teacher": {"low": 0.0, "high": None}}}, None])
def test_without_an_interval_there_is_no_verdict_on_the_drop(against):
    assert refused(good_metrics(), GOOD_HEALTH, against) == ["drop_below_teacher"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"collision_rate": 0.21}, ["collision_rate"]),
        ({"codebook_utilisation": [0.9, 0.49, 0.9]}, ["codebook_utilisation"]),
        ({"codebook_utilisation": []}, ["codebook_utilisation"]),
        ({"codebook_utilisation": [0.9, None]}, ["codebook_utilisation"]),
        ({"gini_of_prefixes": [float("nan")]}, ["finite"]),
        ({"collision_rate": float("inf")}, ["finite", "collision_rate"]),
    ],
)
def test_identifier_health_is_held(change, expected):
    assert refused(good_metrics(), GOOD_HEALTH | change) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"gini_of_prefixes": [0.4, 0.9]}, []),
        ({"gini_of_prefixes": [0.41, 0.1]}, ["gini_of_first_level"]),
        ({"hit_rate_quantized": 0.081}, []),
        ({"hit_rate_quantized": 0.079}, ["hit_rate_kept"]),
        ({"hit_rate_item_embedding": 0.0}, ["hit_rate_kept"]),
        ({"soft_hard_disagreement": 0.001}, []),
        ({"soft_hard_disagreement": 0.002}, ["soft_hard_disagreement"]),
        ({"entropy_share": [0.99, 0.9]}, []),
        ({"entropy_share": [0.89, 0.99]}, ["entropy_share"]),
        ({"entropy_share": None, "gini_of_prefixes": []}, ["gini_of_first_level", "entropy_share"]),
        ({"hit_rate_quantized": None, "soft_hard_disagreement": "0"}, ["hit_rate_kept", "soft_hard_disagreement"]),
    ],
)
def test_an_informational_gate_tells_of_its_target_and_never_refuses(change, expected):
    assert missed(GOOD_HEALTH | change) == expected


def test_health_of_an_earlier_version_passes_without_the_new_figures():
    names = ["gini_of_first_level", "hit_rate_kept", "soft_hard_disagreement", "entropy_share"]
    assert missed({"collision_rate": 0.1, "codebook_utilisation": [0.9]}) == names


def test_the_worst_level_is_named():
    health = GOOD_HEALTH | {"codebook_utilisation": [0.9, 0.4, 0.45]}
    reasons = [gate.reason for gate in decide(good_metrics(), GOOD_INTERVALS, health, PARAMS).gates if not gate.passed]
    assert len(reasons) == 1
    assert "level 2" in reasons[0]


def test_the_reason_names_the_protocol_with_the_worst_figure():
    metrics = good_metrics()
    metrics["shipped"]["masked"]["ndcg_at_10"] = 0.05
    gates = {gate.name: gate for gate in decide(metrics, GOOD_INTERVALS, GOOD_HEALTH, PARAMS).gates}
    assert gates["margin_over_cooccurrence"].reason.startswith("masked NDCG@10 0.0500 is +25.0%")


@pytest.mark.parametrize("model", ["popularity", "cooccurrence", "own_items", "neighbours", "teacher", "shipped"])
@pytest.mark.parametrize("value", ["absent", None, float("nan"), True, "0.5"])
def test_a_missing_or_broken_figure_refuses(model, value):
    metrics = copy.deepcopy(good_metrics())
    if value == "absent":
        del metrics[model]
    else:
        metrics[model]["unmasked"]["ndcg_at_10"] = value
    assert refused(metrics, GOOD_HEALTH)


def test_nothing_at_all_is_refused_without_an_exception():
    assert not decide({}, {}, {}, PARAMS).passed


def test_a_baseline_that_scores_nothing_asks_for_any_score():
    metrics = good_metrics() | {"popularity": scores(0.0, 0.0)}
    assert decide(metrics, GOOD_INTERVALS, GOOD_HEALTH, PARAMS).passed


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_better_ranking_never_loses_a_gate(first, second):
    low, high = sorted((first, second))
    passed = [
        {
            gate.name
            for gate in decide(
                good_metrics() | {"shipped": scores(v, v)}, against_teacher(v), GOOD_HEALTH, PARAMS
            ).gates
            if gate.passed
        }
        for v in (low, high)
    ]
    assert passed[0] <= passed[1]
