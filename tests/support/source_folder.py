"""A small folder of interactions and items, and its reading as the source `folder`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unigrec.config.schema import IngestParams, SampleParams
from unigrec.data.sources.load import load_source
from unigrec.data.sources.source import Source

SAMPLE = SampleParams(users=40, items=30, interactions=300)
MOMENT = 1_318_896_000


def load(
    folder: Path, text_columns: tuple[str, ...] = ("title", "brand"), served: tuple[str, ...] = (), **settings: Any
) -> Source:
    values = {"source": "folder", "path": str(folder), "min_rating": 0.0, "sample": SAMPLE, **settings}
    return load_source(IngestParams(**values), seed=7, text_columns=text_columns, served_types=dict.fromkeys(served))


def folder_of(
    tmp_path: Path, interactions: dict | pa.Table | None = None, items: dict | pa.Table | None = None
) -> Path:
    """A folder of Parquet files; what is not given is a small table that is in order."""
    if interactions is None:
        interactions = {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [MOMENT, MOMENT + 1]}
    if items is None:
        items = {"item_id": ["a", "b"], "title": ["A thing", None]}
    for name, table in (("interactions", interactions), ("items", items)):
        pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), tmp_path / f"{name}.parquet")
    return tmp_path
