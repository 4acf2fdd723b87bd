"""A run holds what a person compares and decides on."""

from __future__ import annotations

import json

import pytest

from support.tiny_model import make_bundle
from unigrec.registry.tracking import BUNDLE_TAG, _slice_keys, mlflow_client
from unigrec.registry.versions import register


def test_the_run_holds_params_metrics_curves_and_where_it_came_from(params, unchecked):
    folder = make_bundle()
    register(folder, params)
    with mlflow_client(params) as client:
        version = client.get_model_version("tiny", "1")
        run = client.get_run(version.run_id)
        curve = client.get_metric_history(run.info.run_id, "joint.curve.loss")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert run.info.status == "FINISHED"
    assert run.data.params["joint.recommender.d_model"] == "64"
    assert run.data.metrics["evaluate.student.unmasked.recall_at_10"] == 0.5
    assert run.data.metrics["harden.codebook_utilisation.2"] == 0.5
    assert run.data.metrics["tokenizer.hit_rate_quantized"] == 0.125
    assert len(client.get_metric_history(run.info.run_id, "tokenizer.temperature")) == 1  # of two files
    assert [(point.step, point.value) for point in curve] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    for tags in (run.data.tags, version.tags):
        assert tags[BUNDLE_TAG] == manifest["id"]
        assert tags["data_version"] == manifest["data"]["version"]
        assert tags["gate"] == "passed"
        assert {"git_commit", "dvc_lock"} <= set(tags)
        assert tags["snapshot"] == "none"  # the data was none
    assert json.loads(version.tags["params"])["joint"]["recommender"]["d_model"] == 64


def test_slices_of_values_have_names_of_their_own():
    names = ["target brand: A+", "target brand: A-", "target brand: квас", "target brand, other", "x" * 300]
    keys = list(_slice_keys([*names, names[0]]).values())
    assert keys == ["target_brand_a_", "target_brand_a_.2", "target_brand_квас", "target_brand_other", "x" * 150]


def test_the_run_holds_what_a_person_decides_on(params, unchecked):
    """Intervals, slices, and each gate with its reason."""
    register(make_bundle(passed=False), params)
    with mlflow_client(params) as client:
        run = client.get_run(client.get_model_version("tiny", "1").run_id)
        reports = {file.path for file in client.list_artifacts(run.info.run_id, "report/evaluate")}
    assert run.data.metrics["evaluate.shipped_against.unmasked.teacher.low"] == 0.01
    assert run.data.metrics["evaluate.slice.cold_target_unseen_in_training.shipped.masked.ndcg_at_10"] == 0.25
    assert run.data.metrics["evaluate.slice.cold_target_unseen_in_training.shipped.masked.users"] == 3
    assert r"| ndcg_at_10 | REFUSED | a \| reason |" in run.data.tags["mlflow.note.content"]
    assert {f"report/evaluate/{name}.json" for name in ("metrics", "slices", "shipped_against")} <= reports
