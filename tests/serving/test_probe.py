"""A probed bundle must answer in full. Bundles that kill or hang their process: tests/promotion/test_judge.py."""

from __future__ import annotations

import pytest

from support.tiny_model import bundle_in
from unigrec.base.errors import UnigrecError
from unigrec.serving import probe
from unigrec.serving.bundle import Bundle


def test_a_bundle_that_recommends_too_little_is_no_good(tmp_path, monkeypatch):
    folder = bundle_in(tmp_path)
    search = Bundle._search
    monkeypatch.setattr(
        Bundle, "_search", lambda *positional, **named: [found[:-1] for found in search(*positional, **named)]
    )
    with pytest.raises(UnigrecError, match="asked for 5 items, it recommends 4"):
        probe.measure(folder, [["P3"]], 5)
