"""A probed bundle must answer in full. Bundles that kill or hang their process: tests/promotion/test_judge.py."""

from __future__ import annotations

import pytest

from support.tiny_model import bundle_in
from unigrec.base.errors import UnigrecError
from unigrec.core.retrieval.retriever import Retriever
from unigrec.serving import probe


def test_a_bundle_that_recommends_too_little_is_no_good(tmp_path, monkeypatch):
    folder = bundle_in(tmp_path)
    retrieve = Retriever.retrieve

    def without_the_last(*positional, **named):
        found = retrieve(*positional, **named)
        found.items[:, -1] = -1
        return found

    monkeypatch.setattr(Retriever, "retrieve", without_the_last)
    with pytest.raises(UnigrecError, match="asked for 5 items, it recommends 4"):
        probe.measure(folder, [["P3"]], 5)
