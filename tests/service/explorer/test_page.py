"""A person at the explorer: headless Chromium types, clicks, and sees what the service answers."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import chdir
from typing import Any

import pyarrow as pa
import pytest

from support.browser import CHROMIUM, Page, browser
from support.living import wait_for
from support.project import PARAMS_FILE
from support.running_service import Running, running
from support.tiny_model import ITEMS, SERVING, USERS, bundle_in, write_artifacts
from unigrec.base import files
from unigrec.base.masking import SERVE_TOKENS_VARIABLE
from unigrec.base.paths import Artifacts
from unigrec.serving.assemble import assemble

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (on Debian: apt-get install chromium)"),
]
TOKEN = "a-token-of-some-length"
HOSTILE = "<img src=x onerror='window.hit = 1'><script>window.hit = 1</script> lamp"
SHOWN = "[...document.querySelectorAll('#recommended > li')].map((one) => one.dataset.item)"


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Running]:
    """A service with a challenger that asks for a token; the title of the item P7 is hostile."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(PARAMS_FILE, folder / "params.yaml")
    with chdir(folder):
        write_artifacts(seed=0, passed=True, ranks=None, data_seed=0)
        table = files.read_table(Artifacts().catalogue)
        titles = [HOSTILE if item == "P7" else f"title of {item}" for item in table["item_id"].to_pylist()]
        place = table.column_names.index("title")
        files.write_table(Artifacts().catalogue, table.set_column(place, "title", pa.array(titles)))
        bundle = assemble(PARAMS_FILE, SERVING).absolute()
    other = bundle_in(tmp_path_factory.mktemp("other"), seed=1)
    options = ("--model", str(bundle), "--challenger", str(other), "--share", "0.25", "--workers", "1")
    with running(folder, *options, **{SERVE_TOKENS_VARIABLE: TOKEN}) as found:
        wait_for(lambda: found.ready()["challenger"]["running"], 120)
        yield found


@pytest.fixture(scope="module")
def window(tmp_path_factory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(window, service) -> Page:
    """The page, after the token was typed in."""
    window.resize(1280)
    unlock(window, service)
    window.errors.clear()
    return window


def unlock(page: Page, service: Running, fragment: str = "") -> None:
    page.open("about:blank")
    page.open(f"http://127.0.0.1:{service.port}/{fragment}")
    page.wait("!document.querySelector('#token-form').hidden")
    page.run("document.querySelector('#token').focus()")
    page.type(TOKEN)
    page.press("Enter")
    page.wait(f"{SHOWN}.length")


def ask(service: Running, path: str, body: Any = None) -> Any:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{service.port}{path}", content, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def recommended(service: Running, history: list[str], **more: str) -> list[dict[str, Any]]:
    asked = {"histories": [history], "k": 10, "reasons": True} | more
    return ask(service, "/v1/recommend", asked)["answers"][0]["items"]


def check_shown(page: Page, items: list[dict[str, Any]]) -> None:
    """The page shows these recommendations: ids, titles, scores and reasons, in their order."""
    page.wait(f"{SHOWN}.join() === {json.dumps(','.join(item['item_id'] for item in items))}")
    titles = page.run("[...document.querySelectorAll('#recommended .title')].map((one) => one.textContent)")
    assert titles == [item["title"] for item in items]
    assert page.texts("#recommended .score") == [f"score {item['score']:.3f}" for item in items]
    assert page.texts("#recommended .reason") == [item["reason"]["text"] for item in items]


def test_a_history_built_by_keys_and_clicks_shows_what_the_service_answers(page, service, tmp_path):
    check_shown(page, recommended(service, []))
    assert "most popular" in page.text("#next-said")
    page.click("#search-box")
    page.type("of p5")
    page.wait("document.querySelectorAll('#found li').length === 1")
    page.press("Enter")
    first = recommended(service, ["P5"])
    check_shown(page, first)
    page.click("#recommended li .act")
    history = ["P5", first[0]["item_id"]]
    check_shown(page, recommended(service, history))
    assert page.texts("#taken .title") == [f"title of {item}" for item in history]

    address = page.run("location.hash")
    unlock(page, service, address)  # a link to the page shows the same
    check_shown(page, recommended(service, history))
    page.click("#taken li .act")
    check_shown(page, recommended(service, history[1:]))
    page.run("window.history.back()")
    check_shown(page, recommended(service, history))
    page.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000
    assert [error for error in page.errors if "401" not in error] == []


def test_a_title_is_shown_as_text(page, service):
    page.run("location.hash = 'h=P7&item=P7'")
    page.wait("document.querySelector('#item-title').textContent.includes('lamp')")
    page.wait("document.querySelector('#taken .title')")
    assert page.run("document.querySelector('#taken .title').textContent") == HOSTILE
    assert page.run("document.querySelector('#item-title').textContent") == HOSTILE
    assert page.run("[document.querySelectorAll('main img').length, window.hit]")[0] == 0
    assert page.run("window.hit === undefined")
    assert page.errors == []


def test_a_drawn_test_user_has_its_held_out_item_marked(page, service):
    page.click("#draw")
    page.wait("document.querySelector('#user-said').textContent.startsWith('Test user')")
    number = int(page.run("new URLSearchParams(location.hash.slice(1)).get('user')"))
    user = ask(service, f"/v1/explore/test-user?number={number}")
    assert user["of"] == USERS
    items = recommended(service, [item["item_id"] for item in user["history"]])
    check_shown(page, items)
    held = user["held_out"]["item_id"]
    assert page.run("[...document.querySelectorAll('li.held')].map((one) => one.dataset.item)") == [held]
    place = [item["item_id"] for item in items].index(held) + 1
    assert f"The held-out item is number {place}." in page.text("#next-said")
    assert page.errors == []


def test_an_item_its_likes_and_the_tree_are_shown(page, service):
    page.click("#recommended li:nth-child(2) .title")
    page.wait("document.querySelectorAll('#similar li').length")
    item = page.run(f"{SHOWN}[1]")
    similar = ask(service, "/v1/similar", {"item": item, "k": 6})["items"]
    assert page.texts("#similar .title") == [one["title"] for one in similar]
    assert page.run("document.activeElement.id") == "item"

    root = ask(service, "/v1/explore/branches")
    page.wait(f"document.querySelectorAll('#branches li').length === {len(root['branches'])}")
    assert [int(text) for text in page.texts("#branches .count")] == [one["items"] for one in root["branches"]]
    assert f"{ITEMS} items in {len(root['branches'])} branches" in page.text("#tree-said")
    page.click("#branches li button")
    prefix = root["branches"][0]["code"]
    below = ask(service, f"/v1/explore/branches?prefix={prefix}")
    page.wait(f"document.querySelectorAll('#members li').length === {len(below['members'])}")
    assert page.run("location.hash").endswith(f"prefix={prefix}")
    assert page.errors == []


def answering(change: str) -> str:
    """A script after which answers of the service are changed: `change` sees `request`, `status`, `text`, `headers`."""
    return (
        "(() => { const really = window.fetch; window.fetch = async (path, request) => {"
        " const found = await really(path, request); let status = found.status, text = await found.text();"
        f" const headers = new Headers(found.headers); {change}"
        " return new Response(text, {status, headers}); }; })()"
    )


def test_champion_and_challenger_are_shown_side_by_side(page, service):
    page.run("location.hash = 'h=P5&h=P9'")
    own, other = (recommended(service, ["P5", "P9"], variant=variant) for variant in ("champion", "challenger"))
    check_shown(page, own)
    assert "25 % of the visitors" in page.text("#beside-line")
    assert page.run("document.querySelector('#other').hidden")
    page.click("#beside")
    page.wait("document.querySelectorAll('#challenged > li').length === 10")
    ids = [[item["item_id"] for item in items] for items in (own, other)]
    assert page.run("[...document.querySelectorAll('#challenged > li')].map((one) => one.dataset.item)") == ids[1]
    assert page.texts("#challenged .score") == [f"score {item['score']:.3f}" for item in other]
    places = [f"number {ids[0].index(item) + 1}" if item in ids[0] else "not among its 10" for item in ids[1]]
    assert page.texts("#challenged .place") == [f"champion: {place}" for place in places]
    assert f"{len(set(ids[0]) & set(ids[1]))} of 10 are the champion's too" in page.text("#other-said")
    assert page.run("document.querySelector('#changed').hidden")  # two versions answer, and neither has changed
    assert page.run("document.querySelectorAll('#challenged .under .link').length") == 0  # no identifiers of the other
    page.click("#beside")
    page.wait("document.querySelector('#other').hidden")
    assert page.errors == []


def test_another_version_is_announced_and_asked_again(page, service):
    assert page.run("document.querySelector('#changed').hidden")
    page.run(answering("headers.set('X-Unigrec-Version', '2'); text = text.replaceAll('title of', 'new title of');"))
    page.run("location.hash = 'h=P5'")
    page.wait("!document.querySelector('#changed').hidden")
    page.click("#reload")
    page.wait("document.querySelector('#members, #branches').innerText !== ''")
    page.wait("document.querySelector('#branches .example').textContent.startsWith('new title')")
    assert page.run("document.querySelector('#changed').hidden")
    assert page.errors == []


def test_a_bundle_without_reasons_is_asked_without_them(page, service):
    old = "status = 422; text = JSON.stringify({detail: 'reasons: this bundle, of an earlier version, ...'});"
    page.run(answering(f"if (request.body && JSON.parse(request.body).reasons) {{ {old} }}"))
    page.run("location.hash = 'h=P5'")
    items = ask(service, "/v1/recommend", {"histories": [["P5"]], "k": 10})["answers"][0]["items"]
    page.wait(f"{SHOWN}.join() === {json.dumps(','.join(item['item_id'] for item in items))}")
    assert all(text.startswith("shares ") for text in page.texts("#recommended .reason"))
    assert page.errors == []


def test_a_wrong_token_is_asked_for_again(window, service):
    window.open("about:blank")
    window.open(f"http://127.0.0.1:{service.port}/")
    window.wait("!document.querySelector('#token-form').hidden")
    assert window.run("document.activeElement.id") == "token"
    window.type("wrong")
    window.press("Enter")
    window.wait("document.querySelector('#problem').textContent.includes('a token is needed')")
    assert window.run(f"{SHOWN}.length") == 0
    assert not window.run("document.querySelector('#token-form').hidden")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_off_beside_the_window(window, service, width):
    window.resize(width)
    unlock(window, service, "#h=P7&h=P5&item=P7&prefix=0&user=0&beside=1")
    window.wait("document.querySelector('#report').children.length")
    window.wait("document.querySelectorAll('#similar li').length")
    assert window.run("document.documentElement.scrollWidth") <= width
    small = (
        "[...document.querySelectorAll('button.act')].filter((one) => one.getBoundingClientRect().width < 40).length"
    )
    assert window.run(small) == 0
