"""Every part that the command of the speed benchmark names is there."""

from __future__ import annotations

import importlib

import pytest
from benchmarks.speed.__main__ import PARTS


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_a_module_that_runs(part: str):
    assert callable(importlib.import_module(f"benchmarks.speed.{part}").run)
