"""The benchmark of `unigrec score` draws a log of so many users, and scores it."""

from __future__ import annotations

from benchmarks.score import alone, draw_log, scored

from support.tiny_model import bundle_in
from unigrec.base import files


def test_a_log_is_drawn_and_scored(tmp_path):
    bundle, log, out = str(bundle_in(tmp_path)), tmp_path / "log.parquet", tmp_path / "lists.parquet"
    interactions = draw_log(bundle, 30, str(log))
    table = files.read_table(log)
    assert (table.num_rows, len(table["user_id"].unique())) == (interactions, 30)
    assert table.equals(table.sort_by("timestamp"))
    found = scored(bundle, str(log), str(out), workers=1)
    assert (found["users"], found["interactions"], found["rows"]) == (30, interactions, 300)
    assert found["cpu"] > 0.0
    assert alone(bundle, str(log), users=2) > 0.0
