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


def test_the_closing_screen_has_data_quality_gates_version_and_time(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    write_artifacts(0, True, None, 0)
    print_summary(summary())
    printed = capsys.readouterr().out
    for part in (
        "shipped: student",
        "0.2500",
        "1 passed",
        "version 3, alias challenger",
        "0:03; cached: gate",
        "dvc plots show",
    ):
        assert part in printed
    assert "Warnings" not in printed
    assert len(printed.splitlines()) <= 30  # one screen


def test_the_screen_has_few_models_and_the_artifact_has_all_models_gates_and_durations(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_artifacts(0, True, None, 0)
    print_summary(summary())
    assert "co-occurrence" not in capsys.readouterr().out
    text = markdown(summary())
    for part in ("co-occurrence", r"a \| reason", "| joint | 3.2 |", "| gate | cached |"):
        assert part in text
    assert all(line.count("|") >= 3 for line in text.splitlines() if line.startswith("|"))


def test_the_screen_gives_the_reason_of_a_gate_that_refuses_and_counts_missed_targets(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_artifacts(0, False, None, 0)
    target = {"name": "target", "passed": False, "reason": "far [off]", "informational": True}
    shown = summary(verdict="[/] is text, no markup")
    shown.decision["gates"].append(target)
    print_summary(shown)
    printed = capsys.readouterr().out
    assert "1 of 1 refused; 1 of 1 targets missed" in printed
    assert "ndcg_at_10: a | reason" in printed
    assert "far [off]" not in printed
    assert "[/] is text, no markup" in printed


def test_warnings_about_the_data_are_counted_on_the_screen_and_listed_in_the_artifact(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_artifacts(0, True, None, 0)
    files.write_json(Artifacts().source, {"source": "test", "warnings": ["half of the rows are alike", "so it is"]})
    stats = files.read_json(Artifacts().prepare_stats)
    files.write_json(Artifacts().prepare_stats, stats | {"warnings": ["so it is", "one user has all items"]})
    print_summary(summary())
    assert "3 about the data" in capsys.readouterr().out
    assert "- half of the rows are alike\n- so it is\n- one user has all items" in markdown(summary())


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
    assert (steps["serve it"], champion["serve it"]) == ("unigrec serve --model 3", "unigrec serve")
    assert champion["experiments"] == "mlflow ui"
    assert dict(next_steps(summary(tracking_uri="http://host")))["experiments"] == "http://host"
