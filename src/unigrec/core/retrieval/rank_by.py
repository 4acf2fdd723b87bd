"""The ways to rank items. Imports nothing, so that the command line can name them."""

from __future__ import annotations

from enum import StrEnum


class RankBy(StrEnum):
    """What ranks the items."""

    FUSED = "fused"  # the sum of the other two, of neighbours and of own items
    GENERATIVE = "generative"
    DENSE = "dense"


# The name under which metrics have each way to rank.
MODEL_OF = {RankBy.FUSED: "fused", RankBy.GENERATIVE: "student", RankBy.DENSE: "teacher"}
