"""Each address answers as the bundle does, in the one schema; state and refusals."""

from __future__ import annotations

import json

import pytest

from support.local_service import LocalFleet, LocalWorker
from support.search_bundle import bundle_of
from support.tiny_model import ITEMS
from unigrec.service.app import VERSION_HEADER

HISTORY = {"histories": [["P3", "P5"], [], ["gone", "a,b"]], "k": 3}


def test_recommends_as_the_bundle_does(client, tiny_bundle):
    answer = client.post("/v1/recommend", json=HISTORY)
    assert answer.status_code == 200
    assert answer.headers[VERSION_HEADER] == "1"
    expected = [found.model_dump(mode="json") for found in tiny_bundle.recommend(**HISTORY)]
    assert answer.json() == {"answers": expected}
    assert [found["by_popularity"] for found in expected] == [False, True, False]


@pytest.mark.parametrize(
    ("folder", "header"), [("модель", "%D0%BC%D0%BE%D0%B4%D0%B5%D0%BB%D1%8C"), ("50% (new)", "50%25 (new)")]
)
def test_a_version_may_be_a_folder_of_any_name(served, tiny_bundle, folder, header):
    with served(model=None) as parts:
        parts.client.portal.call(LocalFleet.take, parts.service.fleet, LocalWorker(tiny_bundle, version=folder))
        answer = parts.client.post("/v1/recommend", json=HISTORY)
    assert (answer.status_code, answer.headers[VERSION_HEADER]) == (200, header)


def test_options_of_a_request_reach_the_bundle(client, tiny_bundle):
    options = {"k": 4, "deny": ["P4"], "filter": "item_index > 2", "exclude_history": True, "rank_by": "dense"}
    answer = client.post("/v1/recommend", json={"histories": [["P3"]], **options}).json()["answers"][0]
    assert answer == tiny_bundle.recommend([["P3"]], **options)[0].model_dump(mode="json")


@pytest.mark.parametrize(
    ("name", "asked"),
    [("similar", {"item": "P3", "k": 2}), ("complement", {"basket": ["P3", "gone"], "k": 2})],
)
def test_related_items_are_those_of_the_bundle(client, tiny_bundle, name, asked):
    answer = client.post(f"/v1/{name}", json=asked)
    assert answer.json() == getattr(tiny_bundle, name)(**asked).model_dump(mode="json")


USERS = [["P3", "P5"], ["P4"], ["P6", "P7"], ["P8", "gone"], ["P9"]] * 5


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("audience", {"item": "P3", "histories": [*USERS, ["gone"], [None]], "k": 2}),
        ("lookalike", {"seeds": USERS[:20], "others": [*USERS[::-1], []], "k": 3}),
        ("segments", {"histories": USERS, "k": 2, "parts": 2}),
    ],
)
def test_questions_about_users_are_answered_as_by_the_bundle(client, tiny_bundle, name, asked):
    answer = client.post(f"/v1/{name}", json=asked)
    assert answer.json() == getattr(tiny_bundle, name)(**asked).model_dump(mode="json")


def test_words_are_searched_for_as_the_bundle_does(served, tmp_path):
    bundle, asked = bundle_of(tmp_path), {"query": "laser printer", "history": ["P3"], "k": 2}
    with served(model=bundle) as parts:
        answer = parts.client.post("/v1/search", json=asked)
        nothing = parts.client.post("/v1/search", json={"query": "nothing"})
    assert answer.json() == bundle.search(**asked).model_dump(mode="json")
    assert nothing.status_code == 422


@pytest.mark.parametrize("item", ["P3", "a,b", "квас", "two words"])
def test_an_item_has_its_row_of_the_catalogue_and_its_identifier(client, tiny_bundle, item):
    answer = client.get(f"/v1/items/{item}").json()
    index = tiny_bundle.index_of[item]
    assert answer["identifier"] == tiny_bundle.identifiers[index].tolist()
    expected = {"item_index": index, "item_id": item, "title": f"title {index}" if index else None}
    assert {name: answer["columns"][name] for name in expected} == expected


@pytest.mark.parametrize(
    ("address", "asked", "said"),
    [
        ("recommend", {}, "histories: Field required"),
        ("recommend", {"histories": [["P3"], [1.5]]}, "histories.1.0: 1.5 is no item id"),
        ("recommend", {"histories": [], "hist": 1}, "hist: Extra inputs"),
        ("recommend", {"histories": [["P3"]], "k": ITEMS + 1}, f"k = {ITEMS + 1}: expected 1 to {ITEMS}"),
        ("recommend", {"histories": [["P3"]], "filter": "price <"}, "filter: not understood at letter 8"),
        ("recommend", {"histories": [["P3"]], "allow": []}, "leave no item"),
        ("similar", {"item": "gone"}, "no item 'gone'"),
        ("complement", {"basket": ["gone"]}, "no item of the basket"),
        ("audience", {"item": "gone", "histories": [["P3"]]}, "no item 'gone'"),
        ("lookalike", {"seeds": [["P3"]], "others": [["P3"]]}, "1 of the 1 seeds have a history"),
        ("segments", {"histories": [["P3"]], "k": 1}, "k: Input should be greater than or equal to 2"),
    ],
)
def test_a_bad_request_is_refused_with_its_reason(client, address, asked, said):
    answer = client.post(f"/v1/{address}", json=asked)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]


def test_an_unknown_item_or_address_is_not_found(client):
    assert client.get("/v1/items/gone").status_code == 404
    assert "'AB/12'" in client.get("/v1/items/AB%2F12").json()["detail"]
    assert client.get("/v1/nothing").status_code == 404
    assert client.get("/v1/recommend").status_code == 405


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 100_000, b'{"histories": [["\\ud800"]]}', b"1" * 5000, b""])
def test_a_body_that_is_no_json_is_refused(client, body):
    answer = client.post("/v1/recommend", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"max_k": 5}, {"histories": [["P3"]], "k": 6}),
        ({"max_histories": 1}, {"histories": [["P3"], ["P3"]]}),
        ({"max_history": 2}, {"histories": [[], ["P3"] * 3]}),
        ({"max_list": 2}, {"histories": [[]], "deny": ["P3", "P4", "P5"]}),
    ],
)
def test_requests_beyond_a_limit_are_refused_before_they_are_queued(served, settings, asked):
    with served(**settings) as parts:
        answer = parts.client.post("/v1/recommend", json=asked)
        assert answer.status_code == 422
        assert f"at most {next(iter(settings.values()))}" in answer.json()["detail"]
        assert parts.worker.batches == []


def test_users_have_a_limit_of_their_own(served):
    with served(max_users=24, max_histories=1) as parts:
        asked = {"item": "P3", "histories": USERS[:24]}
        assert parts.client.post("/v1/audience", json=asked).status_code == 200
        for name, more in (("audience", asked | {"histories": USERS}), ("lookalike", {"seeds": [], "others": USERS})):
            answer = parts.client.post(f"/v1/{name}", json=more)
            assert (answer.status_code, "25 of them; at most 24" in answer.json()["detail"]) == (422, True)


def test_a_basket_is_limited_like_a_history(served):
    with served(max_history=2) as parts:
        assert parts.client.post("/v1/complement", json={"basket": ["P3"] * 3}).status_code == 422


def test_state_without_a_model(served):
    with served(model=None) as parts:
        assert parts.client.get("/healthz").status_code == 200
        assert parts.client.get("/readyz").status_code == 503
        assert parts.client.get("/v1/model").status_code == 503
        answer = parts.client.post("/v1/recommend", json=HISTORY)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_state_with_a_model(served, tiny_bundle):
    with served() as parts:
        ready = parts.client.get("/readyz")
        assert (ready.status_code, ready.json()["version"], ready.json()["workers"]) == (200, "1", 1)
        model = parts.client.get("/v1/model").json()
        assert (model["version"], model["since"], model["bundle"]) == ("1", "2026-01-01", tiny_bundle.id)
        assert model["metrics"]["unmasked"]["ndcg_at_10"] == 0.25
        parts.service.fleet.problem = "version 2 does not load"
        parts.service.is_draining = True
        ready = parts.client.get("/readyz")
        assert (ready.status_code, ready.json()["problem"]) == (503, "version 2 does not load")


def test_metrics_count_requests_unknown_items_and_popular_answers(served):
    with served() as parts:
        parts.client.post("/v1/recommend", json=HISTORY)
        parts.client.get("/v1/items/gone")
        page = parts.client.get("/metrics").text
    assert 'unigrec_requests_total{address="/v1/recommend",status="200"} 1.0' in page
    assert 'unigrec_requests_total{address="/v1/items/{item}",status="404"} 1.0' in page
    assert "unigrec_unknown_items_total 1.0" in page
    assert "unigrec_answers_by_popularity_total 1.0" in page
    assert 'gone"' not in page


def test_the_page_of_all_addresses_names_no_other_host(client):
    page = client.get("/docs")
    assert page.status_code == 200
    assert "http" not in page.text.replace("http://www.w3.org", "")
    described = client.get("/openapi.json").json()
    assert {"/v1/recommend", "/v1/similar", "/v1/complement", "/v1/search", "/v1/items/{item}"} <= set(
        described["paths"]
    )
    assert "http" not in json.dumps(described["paths"])
