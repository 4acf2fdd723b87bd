"""What the scheduled job takes for a refusal of the gates: their own words, not an exit status alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from flows.scheduled import Place, _retrain

from unigrec.base.errors import UnigrecError


def place(folder: Path, code: str) -> Place:
    """A worktree whose `flows.retrain` is this code."""
    (folder / "flows").mkdir()
    (folder / "flows/retrain.py").write_text(code)
    return Place(folder, folder, os.environ | {"PYTHONPATH": str(folder)})


@pytest.mark.parametrize(
    ("status", "gates", "refused"),
    [
        (0, "Gates       9 passed", False),
        (1, "Gates       1 of 9 refused; 2 of 4 targets missed", True),
        (1, "\x1b[1mGates       \x1b[0m1 of 9 refused", True),
    ],
)
def test_stages_that_ran_and_a_refusal_are_read(tmp_path, status, gates, refused):
    code = f"import sys\nprint(\"  Running stage 'teacher':\")\nprint({gates!r})\nsys.exit({status})\n"
    assert _retrain(place(tmp_path, code), print) == (["teacher"], refused)


def test_code_that_cannot_be_imported_is_a_failure(tmp_path):
    with pytest.raises(UnigrecError, match=r"flows.retrain --no-snapshot ended with exit status 1"):
        _retrain(place(tmp_path, "import no_such_package\n"), print)
