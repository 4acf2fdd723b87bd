"""Tokens, sizes of bodies, and a log and answers that give nothing away."""

from __future__ import annotations

import logging

import pytest

from unigrec.base.errors import UnigrecError
from unigrec.service.server import tokens_from

TOKENS = ("first-token-of-a-shop", "second-token-of-a-shop")
ASKED = {"histories": [["P3", "SECRET-ITEM"]]}
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKENS[0]}", 200),
        (f"bearer {TOKENS[1]}", 200),
        (None, 401),
        ("Bearer ", 401),
        ("Bearer nobody", 401),
        (f"Basic {TOKENS[0]}", 401),
        (TOKENS[0], 401),
        (f"Bearer {','.join(TOKENS)}", 401),
    ],
)
def test_a_request_needs_one_of_the_tokens(served, header, status):
    with served(tokens=TOKENS) as parts:
        answer = parts.client.post("/v1/recommend", json=ASKED, headers={"authorization": header} if header else {})
        assert answer.status_code == status
        assert (answer.headers.get("www-authenticate") == "Bearer") is (status == 401)


def test_only_probes_and_the_page_are_open(served):
    with served(tokens=TOKENS) as parts:
        found = {
            path: parts.client.get(path).status_code
            for path in ("/healthz", "/readyz", "/docs", "/openapi.json", "/metrics", "/v1/model", "/v1/items/P3", "/x")
        }
    assert [path for path, status in found.items() if status == 200] == list(found)[:4]
    assert {status for status in found.values() if status != 200} == {401}


def test_without_tokens_nobody_is_asked_for_one(client):
    assert client.get("/v1/model").status_code == 200


def test_tokens_stand_between_commas_and_short_ones_are_refused():
    assert tokens_from(f" {TOKENS[0]},{TOKENS[1]} ,") == list(TOKENS)
    assert tokens_from("") == []
    with pytest.raises(UnigrecError, match="fewer than 16 characters") as raised:
        tokens_from(f"{TOKENS[0]},secret")
    assert "secret," not in str(raised.value)


def test_a_large_body_is_refused_by_its_header_and_by_what_arrives(served):
    def parts_of_a_body():
        yield from [b"x" * 600] * 2

    with served(max_body_kb=1) as parts:
        assert parts.client.post("/v1/recommend", content=b"x" * 1025, headers=JSON).status_code == 413
        assert parts.client.post("/v1/recommend", content=parts_of_a_body(), headers=JSON).status_code == 413
        assert parts.client.post("/v1/recommend", json=ASKED).status_code == 200


def test_an_unforeseen_error_says_nothing_in_the_answer_and_no_id_in_the_log(served, monkeypatch, caplog):
    logging.getLogger("unigrec.service").propagate = True
    with served() as parts:
        monkeypatch.setattr(parts.service.batcher, "put", lambda *_: {}["SECRET-ITEM"])
        answer = parts.client.post("/v1/recommend", json=ASKED)
    assert (answer.status_code, answer.json()) == (500, {"detail": "internal error"})
    assert "KeyError at" in caplog.text
    assert "SECRET-ITEM" not in caplog.text


@pytest.mark.parametrize(("logged", "has_line"), [("events", False), ("requests", True)])
def test_no_id_is_logged_unless_asked_for(served, caplog, logged, has_line):
    logging.getLogger("unigrec.service").propagate = True
    with served(log=logged) as parts, caplog.at_level(logging.INFO, "unigrec.service"):
        parts.client.get("/v1/items/SECRET-ITEM")
        parts.client.post("/v1/recommend", json=ASKED)
        parts.client.post("/v1/recommend", json={"histories": [["SECRET-ITEM"]], "k": 0})
    assert ("/v1/items/{item} 404" in caplog.text) is has_line
    assert "SECRET-ITEM" not in caplog.text


def test_bodies_are_logged_when_asked_for(served, caplog):
    logging.getLogger("unigrec.service").propagate = True
    with served(log="bodies") as parts, caplog.at_level(logging.INFO, "unigrec.service"):
        parts.client.post("/v1/recommend", json=ASKED)
    assert "SECRET-ITEM" in caplog.text


def test_a_draining_service_closes_each_connection(served):
    with served() as parts:
        parts.guard.is_draining = True
        assert parts.client.post("/v1/recommend", json=ASKED).headers["connection"] == "close"
