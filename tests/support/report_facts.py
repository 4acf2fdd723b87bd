"""Facts of a report, as small as the pages need them."""

from __future__ import annotations

from typing import Any

from unigrec.core.evaluation import protocol

MODELS = (*protocol.MODELS, protocol.SHIPPED)
PROTOCOLS = ("unmasked", "masked")
PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><text>a picture</text></svg>'


def item(title: str, item_id: str = "P1") -> dict[str, Any]:
    return {"id": item_id, "title": title}


def tiny_facts(text: str = "a lamp", **changes: Any) -> dict[str, Any]:
    """Facts in which `text` stands wherever a text of the shop may stand."""
    figures = {"recall_at_10": 0.5, "ndcg_at_10": 0.25}
    finding = {
        "table": "items",
        "name": "a check",
        "severity": "warning",
        "threshold": None,
        "result": "warning",
        "found": text,
        "examples": [text],
    }
    gate = {"name": "ndcg_at_10", "value": 0.25, "threshold": 0.1, "passed": True, "reason": "reaches the floor"}
    facts: dict[str, Any] = {
        "schema": 1,
        "data": {
            "name": text,
            "version": "a" * 64,
            "test_set": "b" * 64,
            "snapshot": None,
            "sizes": {when: {"users": 40, "items": 12, "interactions": 200} for when in ("before", "after")},
            "k_core": 5,
            "length": {"min": 5, "mean": 5.0, "max": 5},
            "tie_share": 0.0,
            "from": "2023-01-01",
            "until": "2023-12-31",
        },
        "warnings": [],
        "params": {
            "profile": "sample",
            "known": True,
            "changed": [["joint.epochs", "10", "20"]],
            "all": [["ingest.path", text], ["joint.epochs", "20"]],
        },
        "shipped_as": "fused",
        "validation": {"fused": 0.3},
        "metrics": {model: dict.fromkeys(PROTOCOLS, figures) for model in MODELS},
        "intervals": {"shipped": {"unmasked": {"ndcg_at_10": [0.2, 0.3]}}},
        "against": {},
        "slices": [
            {"slice": "all", "users": 1234, "model": model, "protocol": protocol, **figures}
            for model in MODELS
            for protocol in PROTOCOLS
        ],
        "identifiers": {
            "before": {"collision_rate": 0.5, "codebook_utilisation": [1.0, 0.5]},
            "after": {"collision_rate": 0.25, "largest_collision": 3},
            "churn": {"churn_level_1": 0.125, "churn_level_2": 0.25},
            "levels": 2,
            "codebook_size": 4,
            "length": 2,
            "tree": [{"level": 1, "nodes": 4, "children": 4.0}, {"level": 2, "nodes": 12, "children": 3.0}],
            "groups": [{"code": 3, "items": 5, "examples": [item(text) | {"codes": "3-1"}]}],
        },
        "examples": [
            {
                "history": [item(text)],
                "earlier": 2,
                "recommended": [
                    item("a chair", "P2") | {"taken": True, "seen": False},
                    item(text) | {"taken": False, "seen": True},
                ],
                "taken": item("a chair", "P2"),
                "rank": 1,
            }
        ],
        "checks": {
            "counts": {severity: {"failed": 1, "passed": 2, "unchecked": 0} for severity in ("critical", "warning")},
            "failed": [finding],
            "met": [],
            "unchecked": [],
        },
        "decision": {"passed": True, "gates": [gate]},
        "pictures": {"intervals": PICTURE, "teacher": PICTURE},
    }
    return facts | changes
