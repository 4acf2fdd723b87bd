"""The benchmark of `prepare` on both engines: its log in partitions, and its measure of memory."""

from __future__ import annotations

import sys

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks import spark_prepare
from unigrec.data.partitions import partitions_of, read_partitions


def test_the_log_is_written_in_partitions_in_time_order(tmp_path, monkeypatch):
    monkeypatch.setattr(spark_prepare, "ROWS_PER_PARTITION", 900)
    spark_prepare.write_log(str(tmp_path), interactions=2000)
    parts = partitions_of(tmp_path / "interactions.parquet")
    assert [part.rows for part in parts] == [900, 900, 200]
    log = read_partitions(tmp_path / "interactions.parquet")
    times = log["timestamp"].to_numpy()
    assert (times[1:] >= times[:-1]).all()
    items = pq.read_table(tmp_path / "items.parquet")["item_id"]
    assert pc.count_distinct(items).as_py() == len(items) == 100
    assert pc.all(pc.is_in(log["item_id"], value_set=items.combine_chunks())).as_py()
    assert pc.count_distinct(log["user_id"]).as_py() > 100


def test_memory_is_that_of_a_process_and_its_children(tmp_path):
    child = "import time; held = bytearray(60_000_000); time.sleep(0.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    seconds, cpu, peaks, _ = spark_prepare.watched([sys.executable, "-c", parent], tmp_path)
    assert seconds > 0.4
    assert 0 < cpu < seconds + 1
    assert peaks["all"] == peaks["python"] > 60_000_000
    assert peaks["java"] == 0
    with pytest.raises(RuntimeError, match="ended with code 3"):
        spark_prepare.watched([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)
