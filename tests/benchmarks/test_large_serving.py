"""The benchmark of large bundles."""

from __future__ import annotations

import sys

import pytest

from benchmarks import large_serving


@pytest.mark.parametrize("options", [["--rung", "rung"], ["--artifacts", "artifacts"]])
def test_a_rung_without_its_artifacts_is_an_error(monkeypatch, capsys, options):
    monkeypatch.setattr(sys, "argv", ["large_serving", *options])
    with pytest.raises(SystemExit, match="2"):
        large_serving.main()
    assert "--rung and --artifacts belong together" in capsys.readouterr().err
