"""What every reader of a source returns: the same two tables, and their provenance."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa


class Source(NamedTuple):
    """The outputs of the stage `ingest`.

    interactions: user_id string, item_id string, timestamp int64 (unix seconds, UTC); in the order of the source
    items: item_id string, then text columns (string or null); in the order of the source
    provenance: kind of source, files with sha256 and size, row counts, the lineage of a snapshot; no clock, so that
        equal inputs give equal bytes
    warnings: sentences on what a person should know: what was converted, taken for granted, or is empty
    served: item_id string, then the columns of `serve.columns` with their types; None if params name none
    """

    interactions: pa.Table
    items: pa.Table
    provenance: dict
    warnings: tuple[str, ...] = ()
    served: pa.Table | None = None


def provenance(source: str, interactions: int, items: int, **extra: object) -> dict:
    """Kind of source, row counts, and what the source adds."""
    return {"source": source, "interactions": interactions, "items": items, **extra}
