"""Beam search is exact with a beam as wide as the catalogue. The table shows the loss of a narrow beam."""

from __future__ import annotations

import sys

import pytest

from benchmarks import beam
from benchmarks.quality import __main__ as quality
from support.tiny_ladder import tiny_arguments, tiny_artifacts


def test_a_beam_as_wide_as_the_catalogue_finds_the_exact_lists(tmp_path, monkeypatch, capsys):
    artifacts, out = tiny_artifacts(tmp_path), tmp_path / "out"
    assert quality.run(tiny_arguments(artifacts, out, "--rungs", "M3")) == 0
    (rung,) = (out / "seed-1/M3").iterdir()
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["beam", "--artifacts", str(artifacts), "--rung", str(rung), "--beams", "1,24"])
    beam.main()
    rows = {line.split("|")[1].strip(): line.split("|")[2:] for line in capsys.readouterr().out.splitlines()[2:]}
    assert list(rows) == ["1", "24", "exact"]
    assert rows["24"] == rows["exact"]
    assert float(rows["1"][2].strip().rstrip("%")) <= 10.0  # at most one of the exact first ten


def test_a_rung_that_is_not_there_is_one_line(tmp_path, monkeypatch, capsys):
    arguments = ["beam", "--artifacts", str(tiny_artifacts(tmp_path)), "--rung", str(tmp_path / "none")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="2"):
        beam.main()
    assert "none" in capsys.readouterr().err.splitlines()[0]
