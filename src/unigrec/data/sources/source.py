"""What every source gives."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa


class Source(NamedTuple):
    """What `ingest` writes.

    interactions: user_id string, item_id string, timestamp int64 (unix seconds, UTC); in the order of the source
    items: item_id string, then text columns, string, null where there is no text; in the order of the source
    provenance: kind of source, files with sha256 and size, row counts, the lineage of a snapshot; no clock, so same
        input gives same bytes
    """

    interactions: pa.Table
    items: pa.Table
    provenance: dict


def provenance(source: str, interactions: pa.Table, items: pa.Table, **extra: object) -> dict:
    return {"source": source, "interactions": interactions.num_rows, "items": items.num_rows, **extra}
