"""The report of a registered version: written, logged to its run, and written again with the decision of promotion."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.project import PARAMS_FILE
from support.report_facts import tiny_facts
from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.commands import reports
from unigrec.config.read import load_params
from unigrec.config.schema import Params
from unigrec.registry import versions
from unigrec.registry.tracking import mlflow_client
from unigrec.registry.versions import Known
from unigrec.serving.manifest import FACTS

BUNDLE = "0123456789abcdef"
KNOWN = Known("2", run_id="run", bundle=BUNDLE, commit="c0ffee", aliases=["challenger"], verdict=None, url=None)
PAGE, CARD = paths.REPORTS / "2" / paths.REPORT_PAGE, paths.REPORTS / "2" / paths.MODEL_CARD


class Registry:
    """Stands in for the registry: what it knows of a version, and what was attached to it."""

    def __init__(self):
        self.known, self.attached, self.away = KNOWN, [], False

    def attach(self, params, version, pages, description):
        if self.away:
            raise UnigrecError("MLflow does not answer")
        self.attached.append({path.name: path.read_text(encoding="utf-8") for path in pages} | {"is": description})


@pytest.fixture
def registry(tmp_path, monkeypatch) -> Registry:
    made = Registry()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(versions, "known", lambda params, version: made.known)
    monkeypatch.setattr(versions, "attach", made.attach)
    write_facts(tiny_facts())
    return made


@pytest.fixture
def params() -> Params:
    return load_params(PARAMS_FILE)


def write_facts(facts: dict) -> None:
    files.write_json(paths.BUNDLES / BUNDLE / FACTS, facts)


def write_comparison(champion: str, bundle: str = BUNDLE) -> None:
    facts = {"users": 40, "data_until": "2023-12-31", "protocol": "unmasked", "outcome": "keep", "gates": []}
    figures = {"recall_at_10": 0.5, "ndcg_at_10": 0.4321}
    metrics = {"shipped": figures, "champion": figures}
    place = paths.COMPARISONS / f"2-vs-{champion}" / paths.COMPARISON_FILE
    files.write_json(place, facts | {"challenger_bundle": bundle, "metrics": metrics})


def test_a_version_that_was_registered_and_promoted_has_its_report_in_its_run_and_its_card_as_description(
    registered, monkeypatch, params
):
    monkeypatch.chdir(registered)
    with mlflow_client(params.register_) as client:
        version = client.get_model_version(params.register_.model_name, "1")
        logged = Path(client.download_artifacts(version.run_id, paths.REPORT_PAGE)).read_text(encoding="utf-8")
    assert logged == (paths.REPORTS / "1" / paths.REPORT_PAGE).read_text(encoding="utf-8")
    assert "unigrec version 1" in logged
    assert "Promotion: is the first champion" in logged
    assert version.description == (paths.REPORTS / "1" / paths.MODEL_CARD).read_text(encoding="utf-8")
    assert "is the first champion" in version.description
    known = versions.known(params.register_, "champion")
    assert (known.version, known.run_id, known.aliases) == ("1", version.run_id, ["challenger", "champion"])
    comparison = (paths.COMPARISONS / "1-vs-none" / paths.COMPARISON_PAGE).read_text(encoding="utf-8")
    assert comparison.endswith("Report of version 1: `state/reports/1/report.html`\n")


def test_what_is_attached_is_what_is_written(registry, params):
    assert reports.publish(params, "2") == PAGE
    (attached,) = registry.attached
    assert attached[paths.REPORT_PAGE] == PAGE.read_text(encoding="utf-8")
    assert attached["is"] == attached[paths.MODEL_CARD] == CARD.read_text(encoding="utf-8")
    assert "unigrec version 2" in attached[paths.REPORT_PAGE]


def test_a_report_is_attached_again_only_if_something_new_is_known(registry, params):
    for _ in range(2):
        reports.publish(params, "2")
    assert len(registry.attached) == 1
    write_comparison("1")
    registry.known = KNOWN._replace(verdict="margin_over_champion: too little")
    reports.publish(params, "2")
    assert len(registry.attached) == 2
    assert "0.4321" in registry.attached[1][paths.REPORT_PAGE]
    assert "too little" in registry.attached[1]["is"]


def test_the_comparison_of_another_bundle_is_not_shown(registry, params):
    write_comparison("1", bundle="another")
    reports.publish(params, "2")
    assert "0.4321" not in registry.attached[0][paths.REPORT_PAGE]


def test_a_report_that_was_not_attached_is_not_there_and_is_a_line_on_stderr(registry, params, capsys):
    registry.away = True
    assert reports.publish_or_warn(params, "2") is None
    said = capsys.readouterr().err
    assert said.startswith("warning: the report of version 2 was not published: MLflow does not answer")
    assert not paths.REPORTS.exists()


@pytest.mark.parametrize("facts", [None, [], {"schema": 0}])
def test_a_bundle_without_facts_that_this_version_reads_has_no_report(registry, params, facts):
    (paths.BUNDLES / BUNDLE / FACTS).unlink()
    if facts is not None:
        write_facts(facts)
    assert reports.publish(params, "2") is None
    assert registry.attached == []


@pytest.mark.parametrize("broken", [{"metrics": None}, {"pictures": []}, {"data": {}}, {"examples": [1]}])
def test_facts_of_another_shape_are_an_error_that_names_them(registry, params, broken):
    write_facts(tiny_facts(**broken))
    with pytest.raises(UnigrecError, match=r"report/report/facts\.json: not of the expected shape"):
        reports.publish(params, "2")
    assert registry.attached == []


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, "`state/reports/2/report.html`"),
        (
            "http://host/#/experiments/1/runs/r",
            "`state/reports/2/report.html`, [in MLflow](http://host/#/experiments/1/runs/r/artifacts)",
        ),
    ],
)
def test_the_place_of_a_report_is_its_file_and_its_run_on_a_server(registry, params, url, expected):
    registry.known = KNOWN._replace(url=url)
    assert reports.place(params, "2") == expected
