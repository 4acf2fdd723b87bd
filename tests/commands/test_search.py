"""`unigrec search`: a bundle that cannot embed words says so, as a wrong request does."""

from __future__ import annotations

from support.command_line import invoke
from unigrec.base.errors import EXIT_BAD_INPUT


def test_what_cannot_be_searched_is_bad_input(registered, monkeypatch):
    monkeypatch.chdir(registered)
    code, output = invoke("search", "title")
    assert code == EXIT_BAD_INPUT
    assert "text_encoder/encoder.safetensors: no such file" in output
    assert invoke("search", "title", "--search-weight", "-1")[0] == EXIT_BAD_INPUT
