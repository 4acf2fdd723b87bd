"""The tokenizer's pre-training: temperature, first codebooks, and input that cannot be trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support.tiny_training import ITEMS, tiny_embeddings, tiny_params, tiny_run, write_project
from unigrec.base import files, paths
from unigrec.base.errors import EXIT_BAD_INPUT, TrainingError
from unigrec.base.paths import Artifacts
from unigrec.core.identifiers.collisions import collision_rate, hard_codes
from unigrec.core.identifiers.health import identifier_curve
from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.core.training.tokenizer import new_tokenizer, train_tokenizer
from unigrec.pipeline import outputs, running


def run(embeddings: torch.Tensor | None = None, seed: int = 7, **changes):
    params = tiny_params(tokenizer=changes).tokenizer
    given = tiny_embeddings() if embeddings is None else embeddings
    return train_tokenizer(given, params, tiny_run(seed))


def test_the_temperature_falls_linearly_from_start_to_end_over_all_steps(monkeypatch):
    seen, quantize = [], Tokenizer.quantize_soft

    def spy(tokenizer, latent, temperature):
        if torch.is_grad_enabled():  # a training step, not the figures between epochs
            seen.append(temperature)
        return quantize(tokenizer, latent, temperature)

    monkeypatch.setattr(Tokenizer, "quantize_soft", spy)
    history = run(epochs=4, batch_size=10, temperature_start=0.05, temperature_end=0.001).history
    assert seen == pytest.approx(np.linspace(0.05, 0.001, 4 * 3))  # 24 items in batches of 8
    assert [row["temperature"] for row in history] == pytest.approx([*seen[::3], 0.001])


def test_a_single_step_has_the_start_temperature():
    history = run(epochs=1, batch_size=ITEMS).history
    params = tiny_params().tokenizer
    assert [row["temperature"] for row in history] == pytest.approx([params.temperature_start, params.temperature_end])


def test_the_loss_is_reconstruction_and_weighted_uniformity():
    row = run(epochs=1, uniformity_weight=0.3).history[1]
    assert row["loss"] == pytest.approx(row["reconstruction_loss"] + 0.3 * row["uniformity_loss"])


@pytest.mark.slow
def test_reconstruction_falls():
    # Eight codewords per level: four give fewer identifiers than items, and the loss they reach depends on rounding.
    history = run(epochs=150, lr=0.003, codebook_size=8).history
    assert history[-1]["reconstruction_loss"] < 0.5 * history[1]["reconstruction_loss"]


def test_the_last_row_tells_the_identifiers_of_the_tokenizer_that_is_kept():
    trained = run(epochs=3, temperature_end=0.002, lr=0.05)
    figures = identifier_curve(trained.model, tiny_embeddings(), 0.002)
    assert [row["epoch"] for row in trained.history] == [0, 1, 2, 3]
    assert {name: trained.history[-1][name] for name in figures} == figures
    assert {"entropy_level_1", "entropy_level_2", "soft_hard_disagreement", "collision_rate"} == set(figures)
    assert {name: trained.history[-2][name] for name in figures} != figures


def test_the_first_row_tells_the_collisions_of_the_untrained_codebooks():
    torch.manual_seed(7)
    params = tiny_params().tokenizer
    model = new_tokenizer(8, params)
    model.initialise(tiny_embeddings(), 7)
    assert run().history[0]["collision_rate"] == collision_rate(hard_codes(model, tiny_embeddings()))


def test_same_seed_same_bits():
    first, second, other = run(), run(), run(seed=8)
    weights = first.model.state_dict()
    assert first.history == second.history
    assert all(torch.equal(weights[name], value) for name, value in second.model.state_dict().items())
    assert other.history != first.history


def test_as_many_codewords_as_items_is_allowed_and_one_more_is_not():
    run(codebook_size=ITEMS, epochs=1)
    with pytest.raises(TrainingError, match=r"tokenizer\.codebook_size = 25, but the catalogue has 24 items; choose"):
        run(codebook_size=ITEMS + 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_embeddings_that_are_no_numbers_are_named(bad):
    embeddings = tiny_embeddings()
    embeddings[[3, 5], 2] = bad
    with pytest.raises(TrainingError, match=r"embeddings of 2 of 24 items hold NaN or infinity .*item 3") as raised:
        run(embeddings)
    assert raised.value.exit_code == EXIT_BAD_INPUT


def test_the_tokenizer_stage_reports_the_health_of_its_identifiers(tmp_path, monkeypatch):
    params = write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    running.run_stage("tokenizer", params)
    health, history = (
        files.read_json(Artifacts().tokenizer / paths.HEALTH_FILE),
        files.read_json(Artifacts().tokenizer / paths.HISTORY_FILE),
    )
    temperature = params.tokenizer.temperature_end
    curve = identifier_curve(outputs.load_tokenizer(Artifacts()), outputs.load_embeddings(Artifacts()), temperature)
    assert health["collision_rate"] == curve["collision_rate"] == history[-1]["collision_rate"]
    assert health["hit_rate_items"] == ITEMS  # every item has a neighbour in some user's training part
    assert 0.0 < health["hit_rate_quantized"] <= 1.0
    assert (Artifacts().tokenizer / "annealing.png").is_file()


def test_the_stages_after_the_teacher_read_its_part_of_the_item_vectors(tmp_path, monkeypatch, without_pictures):
    params = write_project(tmp_path, {"tokenizer": {"collaborative_weight": 1.0}, "joint": {"epochs": 1}})
    monkeypatch.chdir(tmp_path)
    content = outputs.load_embeddings(Artifacts())
    for stage in ("tokenizer", "joint", "harden"):
        running.run_stage(stage, params)
    width = content.shape[1] + params.teacher.d_model
    assert (
        outputs.load_tokenizer(Artifacts()).encoder[0].in_features
        == outputs.load_unified(Artifacts()).tokenizer.encoder[0].in_features
        == width
    )
    unified, vectors = outputs.load_unified(Artifacts()), outputs.load_item_vectors(Artifacts())
    codes = hard_codes(unified.tokenizer, vectors)
    assert np.array_equal(outputs.load_codes(Artifacts())[:, : codes.shape[1]], codes)


def test_a_started_tokenizer_keeps_its_temperature_and_without_epochs_its_weights():
    trained = run(epochs=1).model
    weights = {name: value.clone() for name, value in trained.state_dict().items()}
    params = tiny_params().tokenizer
    kept = train_tokenizer(
        tiny_embeddings(), params.model_copy(update={"epochs": 0}), tiny_run(seed=5), started=trained
    )
    assert all(torch.equal(value, weights[name]) for name, value in kept.model.state_dict().items())
    assert kept.history == [kept.kept]
    assert kept.kept["epoch"] == 0
    on = train_tokenizer(tiny_embeddings(), params.model_copy(update={"epochs": 2}), tiny_run(seed=5), started=trained)
    assert {row["temperature"] for row in on.history} == {params.temperature_end}
    assert not torch.equal(on.model.codebooks, weights["codebooks"])
