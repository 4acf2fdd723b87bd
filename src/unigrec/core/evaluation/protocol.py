"""How recommendations are measured. Imports nothing heavy, so that reports can name a protocol too."""

from __future__ import annotations

from enum import StrEnum

GATED_CUTOFF = 10  # Recall@10 and NDCG@10 are what validation selects by and what the gates read
SELECTED = f"validation_ndcg_at_{GATED_CUTOFF}"  # in the history of a training, what its weights are selected by
SHIPPED = "shipped"  # in metrics, the model that requests are answered with, next to its parts and the baselines

# The models of a table in their order, each with the words a reader gets. `baselines` ranks these:
BASELINES = {
    "popularity": "popularity",
    "cooccurrence": "co-occurrence",
    "last_item": "last item",
    "own_items": "own items",
    "neighbours": "neighbours",
    "teacher": "teacher",
}
MODELS = BASELINES | {"student": "student", "fused": "fused"}


class Protocol(StrEnum):
    """Whether items of the history may be recommended again. Figures of the two are never mixed."""

    UNMASKED = "unmasked"
    MASKED = "masked"
