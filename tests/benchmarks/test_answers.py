"""The benchmark on answers asks every kind of request."""

from __future__ import annotations

import pytest
from benchmarks.answers import main, measure, measure_tasks, requests_of

from support.search_bundle import bundle_of


def test_every_kind_is_asked(tmp_path):
    bundle = bundle_of(tmp_path)
    found = measure(bundle, count=1)
    assert set(found) == set(requests_of(bundle))
    assert all(len(values) == 1 for values in found.values())
    tasks = measure_tasks(bundle, users=130, times=1)
    assert all(len(values) == 1 and values[0] > 0 for values in tasks.values())
    assert {name.split("`")[1] for name in tasks} == {
        "audience",
        "lookalike",
        "segments",
        "export-features",
        "add-items",
    }


def test_a_bundle_or_a_number_of_items_is_needed(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert "name a bundle's folder, or --items" in capsys.readouterr().err
