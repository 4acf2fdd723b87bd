"""Items with texts, params of the embedding, and files of another modality."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from unigrec.config.schema import EmbedParams


def embed_params(**changes) -> EmbedParams:
    settings = {
        "encoder": "tfidf-svd",
        "model": "",
        "text_columns": ("title", "brand"),
        "dimensions": 6,
        "max_features": 1000,
        "modalities": (),
    }
    return EmbedParams(**(settings | changes))


def items(titles: list[str | None]) -> pa.Table:
    return pa.table(
        {
            "item_index": pa.array(range(len(titles)), pa.int32()),
            "item_id": [f"item {i}, é" for i in range(len(titles))],
            "title": pa.array(titles, pa.string()),
            "brand": pa.array([None if i % 3 else "Acme" for i in range(len(titles))], pa.string()),
            "train_count": pa.array([5] * len(titles), pa.int32()),
        }
    )


def write_modality(path: Path, ids: list[str], vectors: list) -> str:
    pq.write_table(pa.table({"item_id": ids, "embedding": pa.array(vectors, pa.list_(pa.float32()))}), path)
    return str(path)
