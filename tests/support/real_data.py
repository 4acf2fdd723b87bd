"""Finds the real data sets for tests that check published figures. Without the data those tests are skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.project import ROOT


def real_folder(name: str) -> Path:
    """The folder of a data set, in UNIGREC_DATA or next to the repository. Skips the test if there is none."""
    root = Path(os.environ.get("UNIGREC_DATA") or ROOT.parent / "shared" / "data")
    if not (root / name / "interactions.parquet").exists():
        pytest.skip(f"no real data set {name!r} here; point UNIGREC_DATA at the folder that holds it")
    return root / name
