"""How recommendations are measured. Imports nothing heavy, so that reports can name a protocol too."""

from __future__ import annotations

from enum import StrEnum

GATED_CUTOFF = 10  # Recall@10 and NDCG@10 are what validation selects by and what the gates read
SHIPPED = "shipped"  # in metrics, the model that requests are answered with, next to its parts and the baselines


class Protocol(StrEnum):
    """Whether items of the history may be recommended again. Figures of the two are never mixed."""

    UNMASKED = "unmasked"
    MASKED = "masked"
