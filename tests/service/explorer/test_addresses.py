"""The explorer's page and its addresses: what they answer, what they refuse, and what the page may load."""

from __future__ import annotations

import re

import pytest

from unigrec.service.explorer.addresses import ASSETS, PAGE, picture_of, report_of
from unigrec.service.explorer.schema import MOST_ITEMS

TOKEN = "a-token-of-some-length"
ASKED = ("titles?query=title", "items?item=P3", "branches", "report", "pictures/teacher/curves", "test-user?number=0")


def test_the_page_and_what_it_loads_are_served_with_a_strict_policy(client):
    for address, name in PAGE.items():
        answer = client.get(address)
        assert (answer.status_code, answer.content) == (200, (ASSETS / name).read_bytes())
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    loaded = set(re.findall(r'(?:src|href)="(?!data:|#)([^"]+)"', client.get("/").text))
    assert set(PAGE.values()) == {path.name for path in ASSETS.iterdir()}
    assert {f"/{name}" for name in loaded} == {"/assets/explorer.js", "/assets/explorer.css", "/docs"}


def test_the_page_names_no_host_and_sets_no_html():
    texts = {name: (ASSETS / name).read_text(encoding="utf-8") for name in PAGE.values()}
    for text in texts.values():
        assert "//" not in re.sub(r"(?m)(^|\s)// .*$", "", text)
    unsafe = r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|localStorage|cookie"
    assert not [name for name in texts if name.endswith(".js") and re.search(unsafe, texts[name])]
    assert not re.search(r"<script(?! src)|\son\w+=|\sstyle=", texts["explorer.html"])


def test_every_id_that_the_scripts_name_is_in_the_page():
    page = (ASSETS / "explorer.html").read_text(encoding="utf-8")
    script = "".join(path.read_text(encoding="utf-8") for path in sorted(ASSETS.glob("*.js")))
    named = set(re.findall(r'\b(?:at|focusOn)\("([\w-]+)"\)', script))
    assert "recommended" in named
    assert named <= set(re.findall(r'\bid="([\w-]+)"', page))


def test_questions_are_answered(client, tiny_bundle):
    titles = client.get("/v1/explore/titles", params={"query": "title 5", "k": 3}).json()
    expected = {"item_id": "P5", "title": "title 5", "identifier": tiny_bundle.identifiers[5].tolist()}
    assert titles == {"items": [expected], "found": 1}
    items = client.get("/v1/explore/items", params={"item": ["P5", "квас", "gone", "a,b"]}).json()
    assert [item["item_id"] for item in items["items"]] == ["P5", "квас", "a,b"]
    assert items["absent"] == ["gone"]
    assert client.get("/v1/explore/branches").json()["items"] == len(tiny_bundle.item_ids)


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("titles", 422, "query: Field required"),
        ("titles?query=a&k=51", 422, "k: Input should be less than or equal to 50"),
        (f"titles?query={'a' * 201}", 422, "query: String should have at most 200"),
        ("items", 422, "item: Field required"),
        ("items?" + "item=P3&" * (MOST_ITEMS + 1), 422, f"at most {MOST_ITEMS}"),
        ("branches?prefix=3--1", 422, "prefix: String should match"),
        ("branches?prefix=" + "1-" * 30 + "1", 422, "prefix: String should match"),
        ("branches?prefix=999999999", 404, "no identifier begins with"),
        ("test-user?number=-1", 422, "number: "),
        ("test-user?number=0", 404, "no test users"),
        ("pictures/teacher/none", 404, "no picture teacher/none"),
        ("pictures/..%2f..%2f/manifest", 404, ""),
    ],
)
def test_a_bad_question_is_refused_with_its_reason(client, tmp_path, monkeypatch, address, status, said):
    monkeypatch.chdir(tmp_path)
    answer = client.get(f"/v1/explore/{address}")
    assert answer.status_code == status
    assert said in answer.json()["detail"]


def test_the_page_is_open_and_its_addresses_need_the_token(served):
    with served(tokens=(TOKEN,)) as parts:
        assert {parts.client.get(address).status_code for address in PAGE} == {200}
        for address in ASKED:
            assert parts.client.get(f"/v1/explore/{address}").status_code == 401
        known = {"Authorization": f"Bearer {TOKEN}"}
        assert parts.client.get("/v1/explore/titles?query=title", headers=known).status_code == 200


def test_without_a_model_nothing_is_explored(served):
    with served(model=None) as parts:
        assert parts.client.get("/").status_code == 200
        for address in ASKED:
            answer = parts.client.get(f"/v1/explore/{address}")
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True)


def test_the_report_says_what_the_stages_wrote(client, tiny_bundle):
    found = client.get("/v1/explore/report").json()
    assert found["metrics"]["shipped"]["unmasked"]["ndcg_at_10"] == 0.25
    assert found["decision"]["passed"] is True
    assert found["shipped_as"] == "fused"
    assert "params" not in found


def test_what_a_bundle_lacks_or_holds_damaged_is_null(tmp_path):
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate/decision.json").write_text("{")
    (tmp_path / "harden").mkdir()
    (tmp_path / "harden/health.json").write_text('{"collision_rate": NaN}')
    found = report_of(tmp_path)
    assert found["decision"] is found["metrics"] is found["data"] is None
    assert found["identifiers"] == {"collision_rate": None}
    assert found["pictures"] == []


def test_pictures_are_those_of_the_report_and_nothing_else(tmp_path):
    (tmp_path / "joint").mkdir()
    (tmp_path / "joint/curves.png").write_bytes(b"PNG")
    (tmp_path / "secret.png").write_bytes(b"secret")
    assert report_of(tmp_path)["pictures"] == ["joint/curves"]
    assert picture_of(tmp_path, "joint", "curves") == b"PNG"
    for stage, name in ((".", "secret"), ("joint", "../secret"), ("joint/..", "secret"), ("joint", "none"), ("", "")):
        assert picture_of(tmp_path, stage, name) is None
