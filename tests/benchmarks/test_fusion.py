"""The ablation of the fused ranking: all parts give the metrics that the rung has, one part those of the teacher."""

from __future__ import annotations

import sys

import pytest

from benchmarks import fusion
from benchmarks.quality import __main__ as quality
from support.tiny_ladder import tiny_arguments, tiny_artifacts
from unigrec.base import files


def test_all_parts_give_what_the_rung_ships_and_the_dense_one_what_the_teacher_gives(tmp_path, monkeypatch, capsys):
    artifacts, out = tiny_artifacts(tmp_path), tmp_path / "out"
    assert quality.run(tiny_arguments(artifacts, out, "--rungs", "M14", "--set", "rank.by=fused")) == 0
    (rung,), (baselines,) = (out / "seed-1/M14").iterdir(), (out / "seed-1").glob("baselines-*")
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["fusion", "--artifacts", str(artifacts), str(rung)])
    fusion.main()
    rows = {line.split("|")[1].strip(): line.split("|")[2:] for line in capsys.readouterr().out.splitlines()[2:]}
    assert list(rows) == list(fusion.PARTS)
    shipped, teacher = (
        files.read_json(folder / "metrics.json")[model]
        for folder, model in ((rung / "evaluate", "fused"), (baselines, "teacher"))
    )
    for name, expected in (("all", shipped), ("dense", teacher)):
        figures = [
            f"{expected[protocol][metric]:.4f}"
            for protocol in ("unmasked", "masked")
            for metric in ("recall_at_10", "ndcg_at_10")
        ]
        assert [cell.strip() for cell in rows[name] if cell.strip()] == figures


def test_a_rung_that_is_not_there_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fusion", "--artifacts", str(tiny_artifacts(tmp_path)), str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="2"):
        fusion.main()
    assert "none" in capsys.readouterr().err.splitlines()[0]
