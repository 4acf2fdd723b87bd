"""The pages of a report: what they say, and that texts of the shop stay texts."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from support.hostile import HOSTILE
from support.report_facts import tiny_facts
from unigrec.base import files, paths
from unigrec.pipeline.report.pages import CARD_LENGTH, Registered, card, page

REGISTERED = Registered(
    model="unigrec",
    version="3",
    aliases=["challenger"],
    bundle="0123456789abcdef",
    commit="c0ffee" * 6 + "-dirty",
    verdict="margin_over_champion: too little",
    comparison={
        "outcome": "keep",
        "users": 4905,
        "data_until": "2023-12-31",
        "protocol": "unmasked",
        "metrics": {
            "shipped": {"recall_at_10": 0.5, "ndcg_at_10": 0.21},
            "champion": {"recall_at_10": 0.4, "ndcg_at_10": 0.22},
        },
        "gates": [{"name": "margin_over_champion", "passed": False, "reason": "a tie"}],
    },
)
ADDRESSES = {"href", "src", "action", "formaction", "srcset", "poster", "data", "background", "cite"}


class Page(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.addresses: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses |= {value or "" for name, value in attrs if name in ADDRESSES}

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_title_is_shown_as_its_text_and_adds_nothing_to_the_page(text):
    plain, hostile = Page(page(tiny_facts())), Page(page(tiny_facts(text, warnings=[text])))
    assert hostile.text.count(text) >= 6  # data, params, history, recommended, group, check
    assert hostile.tags == plain.tags
    assert hostile.attributes == plain.attributes


def test_the_page_of_a_whole_run_with_hostile_titles_loads_and_runs_nothing(finished_run):
    text = (finished_run / "artifacts/report" / paths.REPORT_PAGE).read_text(encoding="utf-8")
    found = Page(text)
    assert not found.tags & {"script", "link", "iframe", "object", "embed", "form", "base", "svg", "h1h1"}
    assert not [name for name in found.attributes if name.startswith("on")]
    assert all(address.startswith(("#", "data:image/svg+xml;base64,")) for address in found.addresses)
    assert "url(" not in text
    assert "default-src 'none'" in text
    assert HOSTILE[0] in found.text


def test_the_page_says_what_was_trained_how_good_it_is_and_how_to_make_it_again():
    text = Page(page(tiny_facts(), REGISTERED)).text
    for part in (
        "unigrec version 3",
        "2023-01-01 to 2023-12-31",
        "joint.epochs",
        "shipped: fused",
        "[0.2000, 0.3000]",
        "1,234",
        "12.5% / 25.0%",
        "User 1",
        "2 before these",
        "git checkout " + "c0ffee" * 6 + "\n",
        "cp state/bundles/0123456789abcdef/params.yaml",
        "changes that were not committed",
        "champion at that time",
        "0.2200",
        "a tie",
    ):
        assert part in text, part


def test_without_a_registration_there_is_no_champion_and_no_commit():
    text = Page(page(tiny_facts())).text
    assert "Report of a run" in text
    assert "champion at that time" not in text
    assert "git checkout" not in text


def test_a_refused_model_says_why_first():
    gates = [
        {"name": "finite", "passed": True, "reason": "each is a number"},
        {"name": "recall_at_10", "passed": False, "reason": "is below the floor"},
    ]
    facts = tiny_facts(decision={"passed": False, "gates": gates})
    text = page(facts)
    assert "gates refused" in text
    assert text.index("is below the floor") < text.index("each is a number")
    assert "- recall_at_10: is below the floor" in card(facts)


def test_warnings_about_the_data_are_shown_where_there_are_any():
    warning = "Half of the rows are <b>alike</b>."
    assert 'class="warnings"' not in page(tiny_facts())
    facts = tiny_facts(warnings=[warning])
    assert warning in Page(page(facts)).text
    assert r"Half of the rows are \<b\>alike\</b\>." in card(facts)


def test_what_is_shipped_has_one_row_and_other_models_have_theirs():
    rows = [line for line in card(tiny_facts()).splitlines() if line.startswith("| ")][1:]
    assert [row.split("|")[1].strip() for row in rows] == [
        *("popularity", "own items", "neighbours", "teacher", "student", "shipped: fused")
    ]


def test_the_card_fits_into_the_registrys_description():
    long = card(tiny_facts(warnings=["a sentence " * 50] * 20), REGISTERED)
    assert len(long) <= CARD_LENGTH
    short = card(tiny_facts(), REGISTERED)
    assert "# unigrec version 3" in short
    assert "bundle `0123456789abcdef`" in short
    assert "**Limits**" in short


def test_a_run_without_examples_or_pictures_has_a_page(tmp_path):
    facts = tiny_facts(examples=[], pictures={}, slices=[])
    files.write_json(tmp_path / "facts.json", facts)  # it is plain JSON
    assert "This run shows none" in page(files.read_json(tmp_path / "facts.json"))
