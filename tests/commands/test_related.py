"""`unigrec similar` and `unigrec complement`: what they print, and their exit codes."""

from __future__ import annotations

import json

from support.command_line import invoke
from unigrec.base.errors import EXIT_OK


def test_similar_prints_a_table_or_json(registered, monkeypatch):
    monkeypatch.chdir(registered)
    code, output = invoke("similar", "--item", "P3", "-k", "2")
    assert code == EXIT_OK
    assert "codes shared" in output
    code, output = invoke("similar", "--item", "P3", "-k", "2", "--deny", "P4", "--json")
    items = [item["item_id"] for item in json.loads(output)["items"]]
    assert len(items) == 2
    assert not {"P3", "P4"} & set(items)


def test_complement_says_what_it_rests_on(registered, monkeypatch):
    monkeypatch.chdir(registered)
    code, output = invoke("complement", "--basket", "P3,gone")
    assert code == EXIT_OK
    assert "1 of 2 items of the basket are not in the catalogue" in output
    assert "does not tell days" in output  # the log of this bundle
    code, output = invoke("complement", "--basket", "P3,P4", "--json")
    assert set(json.loads(output)) == {"items", "unknown", "by_day", "stand_ins"}


def test_an_item_that_does_not_exist_is_a_wrong_request(registered, monkeypatch):
    monkeypatch.chdir(registered)
    code, output = invoke("similar", "--item", "gone")
    assert code == 2
    assert "no item 'gone'" in output
