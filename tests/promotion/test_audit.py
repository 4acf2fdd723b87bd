"""Who made a change, and the letters of its line. The lines of a change: test_champion.py."""

from __future__ import annotations

import json

import pytest

from unigrec.promotion import audit


def test_who_acts(monkeypatch):
    monkeypatch.setenv("UNIGREC_ACTOR", "deploy-bot")
    assert audit.actor() == "deploy-bot"
    monkeypatch.delenv("UNIGREC_ACTOR")
    assert "@" in audit.actor()


@pytest.mark.parametrize("why", ["two\u2028lines", "next\u0085line", "not UTF-8: \udcff", "größer"])
def test_a_reason_of_any_letters_is_one_line_that_is_read_back(tmp_path, why):
    change = audit.new_change("rollback", model="m", store="s", why=why)
    audit.append(tmp_path / "audit.jsonl", audit.INTENT, change)
    (found,) = audit.unfinished(tmp_path / "audit.jsonl", "m", "s")
    assert found["why"] == why.replace("\udcff", "?")


def test_a_line_of_an_earlier_version_with_a_separator_of_unicode_is_read(tmp_path):
    line = json.dumps({"id": "1", "event": audit.INTENT, "why": "two\u2028lines"}, ensure_ascii=False)
    (tmp_path / "audit.jsonl").write_text(line + "\n", encoding="utf-8")
    assert [found["id"] for found in audit.read(tmp_path / "audit.jsonl")] == ["1"]
