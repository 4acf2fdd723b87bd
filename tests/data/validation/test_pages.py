"""The page shows every expectation of a result, the failed ones first, and neither runs nor loads anything."""

from __future__ import annotations

from html.parser import HTMLParser

import pyarrow as pa
import pytest

from support.hostile import HOSTILE
from unigrec.base import files
from unigrec.config.schema import PreviousParams, ValidateParams
from unigrec.data.validation.pages import render, write_page
from unigrec.data.validation.suite import validate_tables

TAGS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "span", "div", "section"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "br", "code"),
}


class Page(HTMLParser):
    """Tags, attributes, the five cells per row of an expectation, and the examples in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.examples: list[str] = []
        self._rows: list[list[str]] = []
        self._within: list[list[str]] = []  # the lists whose last text is being read
        self.feed(text)
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self._rows if len(row) == 5]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= set(dict(attrs))
        if tag == "tr":
            self._rows.append([])
        if tag == "td":
            self._begin(self._rows[-1])
        elif ("class", "example") in attrs:
            self._begin(self.examples)

    def _begin(self, texts: list[str]) -> None:
        texts.append("")
        self._within.append(texts)

    def handle_data(self, data: str) -> None:
        for texts in self._within:
            texts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._within.clear()
        elif tag == "code":
            self._within = self._within[:1]


def finding(name: str, **changes: object) -> dict:
    usual = {
        "table": "items",
        "name": name,
        "severity": "critical",
        "threshold": None,
        "success": True,
        "observed": "0 of 8 rows",
        "unexpected_count": 0,
        "unexpected_share": 0.0,
        "examples": [],
        "reason": None,
    }
    return usual | changes


def result(*findings: dict) -> dict:
    return {"data": "snapshot 1a2b", "passed": False, "rows": {"items": 1234567}, "expectations": list(findings)}


def test_every_expectation_is_shown_with_its_result_and_the_failed_ones_come_first():
    text = render(
        result(
            finding("there are items", observed=1234567, unexpected_count=None, unexpected_share=None),
            finding("a drop", severity="warning", success=False, observed=1 / 3, unexpected_count=None),
            finding("no comparison", success=None, observed=None, unexpected_count=None, reason="not checked: first"),
            finding(
                "no id is null",
                success=False,
                observed="2 of 8 rows",
                unexpected_count=2,
                unexpected_share=0.25,
                examples=["row 3", 7],
                threshold="validate.x",
            ),
        )
    )
    page = Page(text)
    assert page.rows == [
        ["failed", "items", "no id is nullvalidate.x", "2 of 8 rows (25 %)", "row 3 7"],
        ["warning", "items", "a drop", "0.3333", ""],
        ["passed", "items", "there are items", "1234567", ""],
        ["not checked", "items", "no comparison", "not checked: first", ""],
    ]
    assert "<title>Data checks: failed</title>" in text
    assert "snapshot 1a2b" in text
    assert "1,234,567" in text
    for severity, failed, passed, unchecked in (("critical", 1, 1, 1), ("warning", 1, 0, 0)):
        numbers = "".join(f'<td class="number">{count}</td>' for count in (failed, passed, unchecked))
        assert f"<td>{severity}</td>{numbers}" in text


@pytest.mark.parametrize("place", ["name", "observed", "reason", "threshold", "table"])
def test_hostile_texts_are_shown_as_texts_wherever_they_stand(place):
    texts = HOSTILE if place != "observed" else [f"{text} rows" for text in HOSTILE]
    page = Page(render(result(*(finding("x", success=False) | {place: text} for text in texts))))
    shown = [" ".join(row) for row in page.rows]
    assert len(shown) == len(texts)
    assert all(text in row for text, row in zip(texts, shown, strict=True))
    assert page.tags <= TAGS
    assert page.attributes <= {"lang", "charset", "http-equiv", "content", "name", "class"}


def test_a_page_of_real_tables_loads_nothing_and_runs_nothing_of_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = ValidateParams(
        min_users=1,
        min_items=1,
        min_interactions=1,
        min_timestamp=0,
        max_timestamp=4_102_444_800,
        max_duplicate_share=0.5,
        min_text_coverage=0.0,
        max_single_time_user_share=1.0,
        max_row_change=1.0,
        previous={name: {"warn": 1.0, "stop": 1.0} for name in PreviousParams.model_fields},
    )
    count = 5  # examples that a finding keeps
    log = pa.table({"user_id": ["u"] * count, "item_id": HOSTILE[:count], "timestamp": range(count)})
    items = pa.table({"item_id": ["i"], "title": ["a lamp"]})
    folder = tmp_path / "validate"
    with pytest.raises(Exception, match="the data breaks"):
        validate_tables(
            log,
            items,
            params,
            ("title",),
            k_core=1,
            reference=None,
            drift="first",
            folder=folder,
            validated=None,
            data="<b>mine</b>",
        )
    (page_file,) = (folder / "data_docs").iterdir()
    text = page_file.read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags <= TAGS  # no script, link, image, frame or form
    assert page.attributes <= {"lang", "charset", "http-equiv", "content", "name", "class"}  # no address, no handler
    assert "url(" not in text
    assert "@import" not in text
    assert "&lt;b&gt;mine&lt;/b&gt;" in text
    assert page.examples == HOSTILE[:count]
    found = files.read_json(folder / "result.json")
    assert found["data"] == "<b>mine</b>"
    sentences = [(each["table"], each["name"] + (each["threshold"] or "")) for each in found["expectations"]]
    assert sorted((row[1], row[2]) for row in page.rows) == sorted(sentences)


def test_a_page_replaces_the_folder_of_an_earlier_one(tmp_path):
    (tmp_path / "docs/static").mkdir(parents=True)
    (tmp_path / "docs/old.html").write_text("old")
    write_page(tmp_path / "docs", result(finding("x")))
    assert [path.name for path in (tmp_path / "docs").iterdir()] == ["index.html"]
