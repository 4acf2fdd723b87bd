"""The benchmark on answers asks every kind of request."""

from __future__ import annotations

from benchmarks.answers import measure, requests_of

from support.search_bundle import bundle_of


def test_every_kind_is_asked(tmp_path):
    bundle = bundle_of(tmp_path)
    found = measure(bundle, count=1)
    assert set(found) == set(requests_of(bundle))
    assert all(len(values) == 1 for values in found.values())
