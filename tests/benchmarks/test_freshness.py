"""Tests of the two snapshots of the freshness benchmark and of its table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks.freshness import STAGES, deliver, results_of, table

from unigrec.base import files, paths
from unigrec.base.paths import Artifacts


def test_the_first_delivery_is_the_earliest_part_and_rows_of_one_time_keep_their_order(tmp_path):
    times = [5, 1, 3, 3, 9]
    log = pa.table({"user_id": list("abcde"), "item_id": ["i"] * 5, "timestamp": times})
    pq.write_table(log, tmp_path / "interactions.parquet")
    pq.write_table(pa.table({"item_id": ["i"]}), tmp_path / "items.parquet")
    deliver(tmp_path, tmp_path / "some", 0.6)
    assert pq.read_table(tmp_path / "some/interactions.parquet")["user_id"].to_pylist() == ["b", "c", "d"]
    deliver(tmp_path, tmp_path / "all", 1.0)
    assert pq.read_table(tmp_path / "all/interactions.parquet").num_rows == 5


def write_run(folder: Path, ids: list[str], codes: list[list[int]]) -> Path:
    files.write_table(folder / Artifacts().catalogue, pa.table({"item_id": ids}))
    files.write_tensors(folder / Artifacts().harden / paths.IDENTIFIERS_FILE, {"codes": np.array(codes, np.int32)})
    scores = {"ndcg_at_10": 0.25, "recall_at_10": 0.5}
    metrics = {model: {"unmasked": scores, "masked": scores} for model in ("shipped", "teacher")}
    files.write_json(folder / Artifacts().evaluate / paths.METRICS_FILE, metrics)
    return folder


def test_identifiers_are_compared_by_item_and_shown_with_quality_and_time(tmp_path):
    first = write_run(tmp_path / "first", ["a", "b", "c"], [[1, 1], [2, 2], [3, 3]])
    other = write_run(tmp_path / "warm", ["c", "a", "new"], [[3, 3], [1, 9], [4, 4]])
    results = results_of(other, dict.fromkeys(STAGES, 10.0), first)
    assert (results["start_items"], results["start_changed"]) == (2, 0.5)
    assert results["start_churn"] == pytest.approx([0.0, 0.5])
    row = table([results]).splitlines()[-1]
    assert row == "| warm | 0.2500 | 0.5000 | 0.2500 | 0.5000 | 0.2500 | 50.0% | 0.0% / 50.0% | 140 | 30 |"
