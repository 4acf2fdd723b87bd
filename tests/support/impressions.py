"""Logs of impressions as the service writes them, and what users took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unigrec.data.sources.impressions import schema

START = 1_700_000_100  # unix seconds: some minutes after the start of a day
DAY = 86_400
NAME = "2-vs-1"


def impression(user: str, items: Sequence[str], at: float = 0.0, **fields: Any) -> dict[str, Any]:
    """A row. at: days after the start. fields: other values than those of a user of the champion."""
    variant = fields.get("variant", "champion")
    version = "1" if variant == "champion" else "2"
    row = {
        "time": int((START + at * DAY) * 1e6),
        "request_id": "r",
        "user_id": user,
        "experiment": NAME,
        "assigned": "split",
        "variant": variant,
        "version": version,
        "bundle": f"bundle {version}",
        "kind": "recommend",
        "share": 0.5,
        "history": 0,
        "k": len(items),
        "items": list(items),
    }
    return row | fields


def write_log(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows as two files of a log; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate((rows[::2], rows[1::2])):
        pq.write_table(pa.Table.from_pylist(part, schema()), folder / f"impressions-{number}.parquet")
    return folder


def taken(*rows: tuple[str, str, float]) -> pa.Table:
    """Interactions: user, item, days after the start."""
    users, items, days = zip(*rows, strict=True)
    times = [round(START + day * DAY) for day in days]
    return pa.table({"user_id": list(users), "item_id": list(items), "timestamp": pa.array(times, pa.int64())})
