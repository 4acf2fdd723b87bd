"""The benchmark on answers asks every kind of request."""

from __future__ import annotations

from benchmarks.answers import measure, requests_of

from support.tiny_model import bundle_in
from unigrec.serving.bundle import Bundle
from unigrec.serving.search import WordSearch


def test_every_kind_is_asked(tmp_path, monkeypatch):
    bundle = Bundle.load(bundle_in(tmp_path))
    monkeypatch.setattr(WordSearch, "scores", lambda self, query: bundle.popularity)  # no encoder is in this bundle
    monkeypatch.setattr(WordSearch, "encoder", type("Encoder", (), {"unknown": lambda self, query: []})())
    found = measure(bundle, count=1)
    assert set(found) == set(requests_of(bundle))
    assert all(len(values) == 1 for values in found.values())
