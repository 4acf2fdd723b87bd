"""infra/up_to_date.py: a source that is not here is no misfit; everything else is."""

from __future__ import annotations

from pathlib import Path

import pytest
from infra.up_to_date import misfits

SOURCES = {"data/current", "state/bundles/b1"}
GONE = {"data/current": "deleted"}


@pytest.mark.parametrize(
    ("status", "left"),
    [
        ({}, {}),
        ({"ingest": [{"changed deps": GONE}], "warm_start": [{"changed deps": {"state/bundles/b1": "deleted"}}]}, {}),
        ({"ingest": [{"changed deps": {"data/current": "modified"}}]}, None),
        ({"ingest": [{"changed deps": {"src/a.py": "deleted"}}]}, None),
        (
            {"ingest": [{"changed deps": GONE | {"params.yaml": {"ingest": "modified"}}}]},
            {"ingest": [{"changed deps": {"params.yaml": {"ingest": "modified"}}}]},
        ),
        (
            {"ingest": [{"changed deps": GONE}, {"changed outs": {"artifacts/ingest": "deleted"}}]},
            {"ingest": [{"changed outs": {"artifacts/ingest": "deleted"}}]},
        ),
        ({"ingest": [{"changed outs": GONE}, "changed command"]}, None),
    ],
)
def test_a_source_that_is_missing_is_left_out(status, left):
    assert misfits(status, SOURCES) == (status if left is None else left)


@pytest.mark.parametrize(
    ("named", "printed"),
    [
        ("data/shop/", "data/shop"),
        ("./data/shop", "data/shop"),
        ("{here}/data/shop", "data/shop"),
        ("../shop", "{above}/shop"),
        ("{above}/shop", "{above}/shop"),
    ],
)
def test_a_source_may_be_spelled_in_another_way_than_dvc_does(named, printed):
    here = {"here": str(Path.cwd()), "above": str(Path.cwd().parent)}
    status = {"ingest": [{"changed deps": {printed.format(**here): "deleted"}}]}
    assert misfits(status, {named.format(**here)}) == {}
