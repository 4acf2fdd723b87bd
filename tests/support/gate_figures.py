"""Metrics that pass every gate, and the params of the gates."""

from __future__ import annotations

from unigrec.config.schema import GateParams

PARAMS = GateParams(
    protocol="unmasked",
    min_recall_at_10=0.02,
    min_ndcg_at_10=0.01,
    min_margin_over_popularity=0.1,
    min_margin_over_cooccurrence=-0.2,
    min_margin_over_own_items=0.0,
    min_margin_over_neighbours=0.0,
    max_drop_below_teacher=0.1,
    max_collision_rate=0.2,
    min_codebook_utilisation=0.5,
    note_max_gini_of_first_level=0.4,
    note_min_hit_rate_kept=0.8,
    note_max_soft_hard_disagreement=0.001,
    note_min_entropy_share=0.9,
)
GOOD_HEALTH = {
    "collision_rate": 0.1,
    "codebook_utilisation": [0.9, 0.8, 0.7],
    "gini_of_prefixes": [0.1, 0.5, 0.6],
    "hit_rate_quantized": 0.09,
    "hit_rate_item_embedding": 0.1,
    "soft_hard_disagreement": 0.0005,
    "entropy_share": [0.99, 0.95, 0.91],
}


def scores(recall: float, ndcg: float) -> dict:
    return {protocol: {"recall_at_10": recall, "ndcg_at_10": ndcg} for protocol in ("unmasked", "masked")}


def good_metrics() -> dict:
    return {
        "popularity": scores(0.04, 0.02),
        "cooccurrence": scores(0.08, 0.04),
        "own_items": scores(0.07, 0.035),
        "neighbours": scores(0.08, 0.04),
        "teacher": scores(0.10, 0.05),
        "shipped": scores(0.11, 0.055),
    }


def against_teacher(ndcg: float, uncertain: float = 0.002) -> dict:
    """The interval of a shipped ranking with that NDCG@10 less the teacher of `good_metrics`."""
    bounds = {"low": ndcg - 0.05 - uncertain, "high": ndcg - 0.05 + uncertain}
    return {protocol: {"teacher": bounds} for protocol in ("unmasked", "masked")}


GOOD_INTERVALS = against_teacher(0.055)
