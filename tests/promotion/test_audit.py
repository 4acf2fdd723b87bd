"""Who made a change. The lines of a change: test_champion.py."""

from __future__ import annotations

from unigrec.promotion import audit


def test_who_acts(monkeypatch):
    monkeypatch.setenv("UNIGREC_ACTOR", "deploy-bot")
    assert audit.actor() == "deploy-bot"
    monkeypatch.delenv("UNIGREC_ACTOR")
    assert "@" in audit.actor()
