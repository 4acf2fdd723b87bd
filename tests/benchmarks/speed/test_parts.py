"""Every part that the command of the speed benchmark names exists, and its rows are configured as in real use."""

from __future__ import annotations

import importlib

import pytest
import torch
from benchmarks.speed.__main__ import PARTS

from benchmarks.speed import decoding, teacher, tokenizer, training


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_a_module_that_runs(part: str):
    assert callable(importlib.import_module(f"benchmarks.speed.{part}").run)


ROWS = [
    *((decoding, decoding.Row, name, {}) for name in decoding.ROWS),
    *((training, training.Steps, name, {}) for name in training.ROWS),
    *((tokenizer, tokenizer.Row, name, {"profile": "small"}) for name in tokenizer.ROWS),
    *((teacher, teacher.Row, name, {}) for name in teacher.ROWS),
]


@pytest.mark.parametrize(("part", "row", "name", "more"), ROWS)
def test_ours_is_set_up_as_a_stage_and_public_parts_are_not(part, row, name: str, more, monkeypatch):
    settings: list[str] = []
    monkeypatch.setattr(part, "training_device", lambda: settings.append("as a stage"))
    monkeypatch.setattr(part, "keep_memory", lambda: settings.append("memory kept"), raising=False)
    row(name=name, artifacts=None, quick=True, **more)
    public = name.startswith(("public", "transformers", "DataLoader"))
    kept = ["memory kept"] if name.endswith("memory kept") else []
    assert settings == (kept if public else ["as a stage"])
    without_denormals = float(torch.tensor([1e-38]) * 1e-2) == 0  # 1e-40
    assert without_denormals == (public and part in (teacher, tokenizer))
