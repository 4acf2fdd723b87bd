"""What a bundle hands on, what is refused, and that identifiers keep their codes for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from support.project import PARAMS_FILE
from support.tiny_model import item_ids, make_bundle
from support.tiny_training import ITEMS, write_project
from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.base.paths import Artifacts
from unigrec.cli import app
from unigrec.config.profiles import with_values
from unigrec.config.read import load_params, parse_params
from unigrec.config.schema import Params
from unigrec.core.identifiers.churn import rows_of
from unigrec.core.training.teacher import new_teacher
from unigrec.embedding.encoder import fit_encoder, load_encoder, save_encoder
from unigrec.pipeline import outputs, running, stages
from unigrec.pipeline.warm_start import (
    COLD,
    check_shapes,
    earlier_identifiers,
    is_warm,
    load_known,
    prepare_warm_start,
    started_recommender,
    started_tokenizer,
    warm_joint,
)
from unigrec.serving import manifest as bundle_files


@pytest.fixture(autouse=True)
def _empty_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def one_thread():
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_flush_denormal(False)


def test_a_file_is_a_cold_start_and_replaces_a_warm_one():
    bundle = make_bundle()
    prepare_warm_start(bundle, Artifacts())
    assert is_warm(Artifacts())
    prepare_warm_start(PARAMS_FILE, Artifacts())
    assert not is_warm(Artifacts())
    assert [file.name for file in Artifacts().warm_start.iterdir()] == ["bundle.json"]
    assert earlier_identifiers(Artifacts(), ["a,b"]) is None


def test_a_bundle_hands_on_its_parts():
    bundle = make_bundle()
    prepare_warm_start(bundle, Artifacts())
    assert load_known(Artifacts()).item_ids == item_ids()
    earlier = earlier_identifiers(Artifacts(), ["new", "квас"])
    codes = files.read_arrays(bundle / "identifiers.safetensors")["codes"]
    assert earlier.tolist() == [[-1] * codes.shape[1], codes[2].tolist()]
    for model, name in (
        (started_tokenizer(Artifacts()), "tokenizer"),
        (started_recommender(Artifacts(), 0.4), "recommender"),
    ):
        weights = files.read_tensors(bundle / f"{name}.safetensors")
        assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert started_recommender(Artifacts(), 0.4).config.dropout == 0.4


def test_what_cannot_be_started_from_is_refused():
    with pytest.raises(UnigrecError, match="gone: no such bundle"):
        prepare_warm_start(Path("gone"), Artifacts())
    bundle = make_bundle()
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / paths.COLLABORATIVE_FILE).unlink()
    del manifest["files"][paths.COLLABORATIVE_FILE]
    manifest["id"] = bundle_files.identity(manifest["files"])
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UnigrecError, match=f"made before bundles could be started from; start cold: {COLD}"):
        prepare_warm_start(bundle, Artifacts())
    (bundle / "catalogue.parquet").write_bytes(b"other")
    with pytest.raises(UnigrecError, match=r"catalogue\.parquet: changed since the bundle was made"):
        prepare_warm_start(bundle, Artifacts())
    assert not Artifacts().warm_start.exists()


def params_like_the_bundle(**changes) -> Params:
    """The committed params with the shape of `tiny_model`'s networks, and what it says of the text encoder."""
    shape = {"d_model": 8, "d_ff": 16, "heads": 2, "d_kv": 4, "encoder_layers": 1, "decoder_layers": 1, "causal": False}
    shape |= {"merge": False, "item_vectors": False}
    values = {f"joint.recommender.{name}": value for name, value in shape.items()}
    tokenizer = {"code_dim": 4, "hidden": [8], "levels": 2, "codebook_size": 4, "collaborative_weight": 0.0}
    values |= {f"tokenizer.{name}": value for name, value in tokenizer.items()}
    values |= {"harden.resolution": "disambiguate", "embed.text_columns": ["title"]}
    import yaml

    return parse_params(with_values(yaml.safe_load(PARAMS_FILE.read_text()), values | changes))


def test_params_of_another_shape_are_named_each():
    prepare_warm_start(make_bundle(), Artifacts())
    settings = {"encoder": "tfidf-svd", "text_columns": ["title"], "modalities": []}
    files.write_json(Artifacts().warm_start / "text_encoder/settings.json", settings)

    def check(**changes) -> None:
        params = params_like_the_bundle(**changes)
        check_shapes(Artifacts(), params.embed, params.tokenizer, joint=params.joint, harden=params.harden)

    check()
    config = Artifacts().warm_start / bundle_files.RECOMMENDER_CONFIG
    earlier = {name: value for name, value in files.read_json(config).items() if name not in ("merge", "repeat_bias")}
    files.write_json(config, earlier)
    check()
    check(**{"joint.recommender.dropout": 0.3, "tokenizer.epochs": 7})
    wrong = {
        "tokenizer.codebook_size": 8,
        "tokenizer.collaborative_weight": 1.0,
        "joint.recommender.d_ff": 32,
        "joint.recommender.merge": True,
        "joint.recommender.item_vectors": True,
        "harden.resolution": "reassign",
        "embed.text_columns": ["title", "brand"],
    }
    with pytest.raises(UnigrecError) as caught:
        check(**wrong)
    for words in (
        "tokenizer.codebook_size is 4 there, 8 in params",
        "a collaborative part (tokenizer.collaborative_weight) is False there, True in params",
        "joint.recommender.d_ff is 16 there, 32 in params",
        "joint.recommender.merge is False there, True in params",
        "joint.recommender.item_vectors is False there, True in params",
        "harden.resolution is disambiguate there, reassign in params",
        "embed.text_columns is ['title'] there, ['title', 'brand'] in params",
        COLD,
    ):
        assert words in str(caught.value)


def test_rows_of_items_among_others():
    assert rows_of(["b", "x", "a"], ["a", "b"]).tolist() == [1, -1, 0]


def test_joint_in_a_warm_start_has_its_own_epochs_and_lower_rates():
    params = load_params(PARAMS_FILE)
    joint = warm_joint(params.joint, params.warm_start)
    assert joint.epochs == params.warm_start.joint_epochs
    assert joint.recommender_lr == pytest.approx(params.warm_start.rate * params.joint.recommender_lr)
    assert joint.tokenizer_lr == pytest.approx(params.warm_start.rate * params.joint.tokenizer_lr)
    assert joint.model_copy(update=dict(params.joint)) == params.joint


def test_the_encoder_that_is_handed_on_embeds_known_items_as_it_did():
    import pyarrow as pa

    params = load_params(PARAMS_FILE).embed.model_copy(update={"dimensions": 4})
    words = ["red lamp", "blue lamp", "red chair", "green chair", "oak table", "pine table"]
    before = pa.table({"item_id": list("abcdef"), "title": words})
    encoder, embedding = fit_encoder(before, params, 0)
    now = pa.table({"item_id": ["b", "new"], "title": ["blue lamp", "oak lamp"]})
    make_bundle()
    prepare_warm_start(next(paths.BUNDLES.iterdir()), Artifacts())
    save_encoder(encoder, Artifacts().warm_start / "text_encoder")
    files.write_table(Artifacts().catalogue, now)
    stages.embed(load_params(PARAMS_FILE), Artifacts())
    found = outputs.load_embeddings(Artifacts()).numpy()
    assert np.array_equal(found[0], embedding[1])
    assert found[1].any()
    assert load_encoder(Artifacts().text_encoder).text.vocabulary == encoder.text.vocabulary


def hand_on() -> None:
    """The run that lies in artifacts as what the next one starts from."""
    Artifacts().warm_start.mkdir(parents=True, exist_ok=True)
    weights = files.read_tensors(Artifacts().joint / paths.MODEL_FILE)
    config = files.read_json(Artifacts().joint / paths.MODEL_CONFIG_FILE)
    for name in ("tokenizer", "recommender"):
        own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        files.write_tensors(Artifacts().warm_start / f"{name}.safetensors", own)
        files.write_json(Artifacts().warm_start / f"{name}.json", config[name])
    shutil.copy(Artifacts().harden / paths.IDENTIFIERS_FILE, Artifacts().warm_start)
    shutil.copy(Artifacts().tokenizer / paths.COLLABORATIVE_FILE, Artifacts().warm_start)
    shutil.copy(Artifacts().catalogue, Artifacts().warm_start / "catalogue.parquet")
    files.write_json(Artifacts().warm_start / "bundle.json", {"bundle": "that"})


def test_with_another_teacher_identifiers_stay_in_a_warm_start_and_change_in_a_cold_one(
    tmp_path, one_thread, without_pictures
):
    changes = {
        "tokenizer": {"collaborative_weight": 1.0, "epochs": 2, "codebook_size": 12},
        "joint": {"epochs": 1, "engine": "torch", "tokenizer_lr": 1e-6},
        "harden": {"resolution": "reassign"},
    }
    params = write_project(tmp_path, changes)
    rest = ("tokenizer", "joint", "harden")
    for stage in rest:
        running.run_stage(stage, params)
    assert "start_changed" not in files.read_json(Artifacts().harden / paths.HEALTH_FILE)
    first = outputs.load_codes(Artifacts())

    torch.manual_seed(99)
    files.write_tensors(Artifacts().teacher / paths.MODEL_FILE, new_teacher(ITEMS, params.teacher).state_dict())
    for stage in rest:
        running.run_stage(stage, params)
    assert (outputs.load_codes(Artifacts()) != first).any(1).mean() > 0.5

    hand_on()
    for stage in rest:
        running.run_stage(stage, params)
    health = files.read_json(Artifacts().harden / paths.HEALTH_FILE)
    second = files.read_arrays(Artifacts().warm_start / paths.IDENTIFIERS_FILE)["codes"]
    assert health["start_items"] == ITEMS
    assert health["start_changed"] == (outputs.load_codes(Artifacts()) != second).any(1).mean() <= 0.1
    assert health["start_churn"] == (outputs.load_codes(Artifacts()) != second).mean(0).tolist()
    assert (
        len(files.read_json(Artifacts().tokenizer / paths.HISTORY_FILE)) == 1
    )  # no epoch of its own: the first row alone


def test_the_command_writes_the_bundle_into_params_and_takes_it_out_again():
    bundle = make_bundle()
    Path("params.yaml").write_text(PARAMS_FILE.read_text())
    elsewhere = shutil.copytree(bundle, "elsewhere")
    shutil.rmtree(bundle)
    said = CliRunner().invoke(app, ["warm-start", "--from", elsewhere]).output
    assert f"the next training starts from elsewhere, {paths.BUNDLES / bundle.name}" in said
    assert load_params(Path("params.yaml")).warm_start.path == str(paths.BUNDLES / bundle.name)
    assert bundle_files.open_bundle(bundle)["id"] == bundle.name
    said = CliRunner().invoke(app, ["warm-start", "--cold"]).output
    assert said.startswith("the next training starts from scratch")
    assert Path("params.yaml").read_text() == PARAMS_FILE.read_text()
