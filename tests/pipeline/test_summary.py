"""The closing report of a run."""

from __future__ import annotations

import pytest

from support.tiny_model import write_artifacts
from unigrec.base import files, paths
from unigrec.base.paths import Artifacts
from unigrec.pipeline.summary import Summary, markdown, next_steps, print_summary, summarise


def summary(**changes) -> Summary:
    made = summarise(
        "unigrec version 3", ["challenger"], "is not better", {"joint": 3.21, "gate": None}, "sqlite:///x.db"
    )
    return made._replace(**changes)


def test_the_closing_report_says_everything(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    write_artifacts(0, True, None, 0)
    print_summary(summary())
    printed = capsys.readouterr().out
    for part in (
        "co-occurrence",
        "0.2500",
        "a | reason",
        "3.2",
        "cached",
        "version 3, alias challenger",
        "dvc plots show",
    ):
        assert part in printed
    text = markdown(summary())
    assert r"a \| reason" in text
    assert all(line.count("|") >= 3 for line in text.splitlines() if line.startswith("|"))


def test_the_number_of_warnings_and_the_first_few_are_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_artifacts(0, True, None, 0)
    print_summary(summary())
    assert "Warnings" not in capsys.readouterr().out
    for file, found in ((Artifacts().source, ["first"]), (Artifacts().prepare_stats, ["[b]", "third", "fourth"])):
        files.write_json(file, files.read_json(file) | {"warnings": found})
    print_summary(summary())
    printed = capsys.readouterr().out
    assert "Warnings about the data: 4" in printed
    assert [word in printed for word in ("  first", "  [b]", "  third", "fourth", "and 1 more")] == [True] * 3 + [
        False,
        True,
    ]
    assert "- fourth" in markdown(summary())


@pytest.mark.parametrize(("by", "label"), [("fused", "fused"), ("generative", "student"), ("dense", "teacher")])
def test_the_model_that_answers_requests_is_marked_and_no_other(tmp_path, monkeypatch, by, label):
    monkeypatch.chdir(tmp_path)
    write_artifacts(0, True, None, 0)
    fusion = Artifacts().rank / paths.FUSION_FILE
    files.write_json(fusion, files.read_json(fusion) | {"by": by})
    marked = [
        line.split("|")[1].strip()
        for line in markdown(summary()).splitlines()
        if line.split("|")[1:2] and line.split("|")[1].strip().endswith("*")
    ]
    assert marked == [f"{label} *"]


def test_every_measured_model_has_a_row_with_its_own_figures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_artifacts(0, True, None, 0)
    file = Artifacts().evaluate / paths.METRICS_FILE
    metrics = files.read_json(file)
    for number, model in enumerate(metrics):
        scores = {"recall_at_10": number / 10, "ndcg_at_10": number / 100}
        metrics[model] = {"unmasked": scores, "masked": scores}
    files.write_json(file, metrics)
    rows = [line.split("|")[2].strip() for line in markdown(summary()).splitlines() if line.count("|") == 6]
    others = [f"{metrics[model]['unmasked']['recall_at_10']:.4f}" for model in metrics if model != "shipped"]
    assert sorted(row for row in rows if row.startswith("0.")) == sorted(others)


def test_the_next_steps_can_be_pasted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_artifacts(0, True, None, 0)
    steps = dict(next_steps(summary(example=["it's", "a,b"])))
    assert steps["recommendations"] == """unigrec recommend --history '["it'"'"'s", "a,b"]' -k 10 --model 3"""
    assert steps["experiments"] == "mlflow ui --backend-store-uri sqlite:///x.db"
    champion = dict(next_steps(summary(aliases=["champion"], tracking_uri="sqlite:///mlflow.db")))
    assert "--model" not in champion["recommendations"]
    assert champion["experiments"] == "mlflow ui"
    assert dict(next_steps(summary(tracking_uri="http://host")))["experiments"] == "http://host"
