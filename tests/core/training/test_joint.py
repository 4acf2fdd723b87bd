"""The joint phase: the parts of its loss, what it trains, and that several ranks train like one."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch

from support.tiny_pipeline import inside
from support.tiny_training import CPU, ITEMS, tiny_data, tiny_params, tiny_run, tiny_tokenizer, write_project
from unigrec.base import files, paths
from unigrec.base.errors import EXIT_BAD_INPUT, TrainingError
from unigrec.base.launcher import run_ranks
from unigrec.base.paths import Artifacts
from unigrec.config.read import load_params
from unigrec.config.schema import JointParams
from unigrec.core.identifiers.collisions import Resolved, hard_codes, resolve
from unigrec.core.identifiers.health import identifier_curve
from unigrec.core.models.item_scores import CodeSums
from unigrec.core.models.recommender import fit_disambiguation
from unigrec.core.models.sasrec import SASRec
from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.core.models.unified import UnifiedModel
from unigrec.core.sequences import Sequences
from unigrec.core.training import joint as joint_module
from unigrec.core.training import student
from unigrec.core.training.checkpoint import CheckpointFolder, Stopped
from unigrec.core.training.joint import JointData, joint_losses, new_unified, train_joint, trained_groups
from unigrec.core.training.loop import Run
from unigrec.core.training.samples import make_samples
from unigrec.pipeline import running

DISTILLATION = ("tokenizer_distillation_loss", "recommender_distillation_loss")
# At the usual temperature the tokenizer's distillation turns rounding into real differences within epochs.
WARM = {"temperature_start": 0.1, "temperature_end": 0.1}
PROJECTIONS = ("history_to_code", "state_to_teacher")  # the third, teacher_to_code, is fitted once


def joint_params(**changes) -> JointParams:
    return tiny_params(joint=changes).joint


def train(params: JointParams, run: Run, data: JointData | None = None):
    return train_joint(data or tiny_data(), tiny_tokenizer(), params, resolution="disambiguate", run=run)


def run(params: JointParams, data: JointData | None = None, seed: int = 7):
    return train(params, tiny_run(seed), data)


def start(params: JointParams, seed: int = 7) -> UnifiedModel:
    """The model as training begins with it."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    return new_unified(
        tokenizer, hard_codes(tokenizer, tiny_data().embeddings), params, teacher_dim=8, resolution="disambiguate"
    )


def windows(data: JointData, params: JointParams):
    return data.sequences.segment_batch(data.sequences.window_segments(params.history)[:30])


def batch_losses(params: JointParams, distil: bool) -> dict[str, torch.Tensor]:
    data, model = tiny_data(), start(params).eval()
    codes = resolve(model.tokenizer, data.embeddings, data.sequences.train_counts(), resolution="disambiguate").codes
    samples = make_samples(windows(data, params), CPU)
    return joint_losses(
        model,
        samples,
        torch.as_tensor(codes),
        data=data,
        params=params,
        temperature=params.temperature_start,
        distil=distil,
    )


def test_the_loss_is_the_weighted_sum_of_its_parts():
    weights = {
        "reconstruction_weight": 0.5,
        "uniformity_weight": 0.25,
        "w_tokenizer_distillation": 0.125,
        "w_recommender_distillation": 2.0,
    }
    found = batch_losses(joint_params(**weights), distil=True)
    names = ["reconstruction_loss", "uniformity_loss", *DISTILLATION]
    assert set(found) == {"loss", "recommendation_loss", *names}
    expected = found["recommendation_loss"]
    for name, weight in zip(names, weights.values(), strict=True):
        assert float(found[name].detach()) != 0.0
        expected = expected + weight * found[name]
    torch.testing.assert_close(found["loss"], expected)


def test_targets_without_weight_teach_nothing():
    params, data = joint_params(w_ranking_distillation=0.0), tiny_data()
    model = start(params).eval()
    codes = torch.as_tensor(resolve(model.tokenizer, data.embeddings, np.zeros(ITEMS), "disambiguate").codes)
    samples = make_samples(windows(data, params), CPU)
    none = samples._replace(weights=torch.zeros(len(samples.targets)), batch_weights=torch.zeros(len(samples.targets)))
    found = joint_losses(model, none, codes, data=data, params=params, temperature=0.1, distil=True)
    assert {name: float(found[name].detach()) for name in ("recommendation_loss", *DISTILLATION)} == dict.fromkeys(
        ("recommendation_loss", *DISTILLATION), 0.0
    )


@pytest.mark.parametrize("decoder", ["beam", "set"])
def test_a_rank_without_rows_has_a_recommendation_loss_of_zero_that_has_gradients(decoder):
    params, data = joint_params(recommender={"decoder": decoder}), tiny_data()
    model = start(params)
    codes = torch.as_tensor(resolve(model.tokenizer, data.embeddings, np.zeros(ITEMS), "disambiguate").codes)
    whole = make_samples(windows(data, params), CPU)
    nothing = make_samples(data.sequences.segment_batch(data.sequences.window_segments(params.history)[:0]), CPU)
    samples = nothing._replace(batch_targets=whole.batch_targets, batch_occurrences=whole.batch_occurrences)
    sums = CodeSums(codes, model.recommender.config.code_sizes) if decoder == "set" else None
    found = joint_losses(model, samples, codes, data=data, params=params, temperature=0.1, distil=False, sums=sums)
    assert found["recommendation_loss"] == 0.0
    found["recommendation_loss"].backward()
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


def test_before_the_distillation_joins_its_losses_are_not_computed():
    assert set(batch_losses(joint_params(), distil=False)).isdisjoint(DISTILLATION)


def test_reconstruction_weighs_each_item_by_its_occurrences():
    params, data = joint_params(), tiny_data()
    model = start(params).eval()
    whole = windows(data, params)
    mask = np.arange(whole.items.shape[1]) < whole.lengths[:, None]
    every = data.embeddings[np.r_[whole.items[mask], whole.targets]]  # history items and targets, with repetition
    soft = model.tokenizer.quantize_soft(model.tokenizer.encoder(every), params.temperature_start)
    found = batch_losses(params, distil=False)
    errors = (model.tokenizer.decode(soft.quantized) - every).square()
    torch.testing.assert_close(found["reconstruction_loss"], errors.mean())
    mean = soft.probabilities.mean(0).clamp_min(1e-12)
    torch.testing.assert_close(found["uniformity_loss"], (mean * mean.log()).sum())


def test_the_distillation_joins_after_its_warm_up():
    history = run(joint_params(epochs=3, distillation_warmup_epochs=2)).history
    assert [set(DISTILLATION) <= set(row) for row in history] == [False, False, True]


def test_the_temperature_falls_linearly_epoch_by_epoch_in_training_and_in_the_log(monkeypatch):
    seen, forward = [], UnifiedModel.forward

    def spy(self, *inputs, temperature, **others):
        seen.append(temperature)
        return forward(self, *inputs, temperature=temperature, **others)

    monkeypatch.setattr(UnifiedModel, "forward", spy)
    history = run(joint_params(epochs=3, temperature_start=0.003, temperature_end=0.001)).history
    per_epoch = len(seen) // 3
    assert seen == pytest.approx(np.repeat([0.003, 0.002, 0.001], per_epoch))
    assert [row["temperature"] for row in history] == pytest.approx([0.003, 0.002, 0.001])


def test_weights_of_an_earlier_hotter_epoch_are_kept_with_its_temperature(monkeypatch):
    scores = iter([0.2, 0.3, 0.1])
    monkeypatch.setattr(student, "beam_metrics", lambda *_, **__: {"validation_ndcg_at_10": next(scores)})
    trained = run(joint_params(epochs=3, temperature_start=0.003, temperature_end=0.001))
    assert (trained.kept["epoch"], trained.kept["temperature"]) == (2, pytest.approx(0.002))


def test_a_colder_end_leaves_fewer_items_whose_soft_codes_are_not_their_hard_ones():
    warm, cold = (run(joint_params(epochs=2, temperature_start=1.0, temperature_end=end)) for end in (1.0, 1e-6))
    assert cold.history[0]["soft_hard_disagreement"] == warm.history[0]["soft_hard_disagreement"] > 0
    assert cold.history[-1]["soft_hard_disagreement"] == 0 < warm.history[-1]["soft_hard_disagreement"]


def test_the_projections_are_trained():
    """The reference code leaves them out of its optimizer (method.md, section 5, defect b)."""
    params = joint_params(epochs=2, weight_decay=0.0, distillation_warmup_epochs=0)
    before, after = start(params), run(params).model
    for name in PROJECTIONS:
        assert not torch.equal(after.get_submodule(name).weight, before.get_submodule(name).weight), name


def test_every_parameter_is_in_one_group_and_the_tokenizer_has_its_own_rate():
    params = joint_params()
    model = start(params)
    rest, repeat, tokenizer = trained_groups(model, params)
    assert {id(p) for p in tokenizer["params"]} == {id(p) for p in model.tokenizer.parameters()}
    every = [id(p) for group in (rest, repeat, tokenizer) for p in group["params"]]
    fitted = {id(p) for p in model.teacher_to_code.parameters()}
    assert sorted(every) == sorted(id(p) for p in model.parameters() if id(p) not in fitted)
    assert (rest["lr"], tokenizer["lr"]) == (params.recommender_lr, params.tokenizer_lr)
    assert rest["weight_decay"] == tokenizer["weight_decay"] == params.weight_decay


@pytest.mark.parametrize(("tokenizer_lr", "moves"), [(0.0, False), (1e-4, True)])
def test_the_tokenizer_moves_by_its_own_rate_alone(tokenizer_lr, moves):
    params = joint_params(epochs=2, tokenizer_lr=tokenizer_lr)
    before, after = start(params), run(params).model
    for name, weight in after.tokenizer.named_parameters():
        assert torch.equal(weight, before.tokenizer.get_parameter(name)) != moves, name


def test_the_identifiers_are_logged_after_each_epoch_against_those_at_the_start(monkeypatch):
    seen = []

    def curve(tokenizer, embeddings, temperature, first_codes):
        seen.append((hard_codes(tokenizer, embeddings), first_codes, temperature))
        return identifier_curve(tokenizer, embeddings, temperature, first_codes=first_codes)

    monkeypatch.setattr(joint_module, "identifier_curve", curve)
    params = joint_params(tokenizer_lr=0.01, schedule="constant")
    history = run(params).history
    before = hard_codes(tiny_tokenizer(), tiny_data().embeddings)
    assert all(np.array_equal(first, before) for _, first, _ in seen)
    assert [at for *_, at in seen] == [row["temperature"] for row in history]
    assert [[row["churn_level_1"], row["churn_level_2"]] for row in history] == [
        (codes != before).mean(0).tolist() for codes, *_ in seen
    ]
    assert history[-1]["churn_level_2"] > 0
    assert {"entropy_level_1", "soft_hard_disagreement", "changed_at_most_one_level"} <= set(history[0])


def test_more_collisions_than_the_table_has_room_for_stop_with_advice(monkeypatch):
    codes = np.column_stack([np.zeros((24, 2), np.int64), np.arange(24)])
    monkeypatch.setattr(joint_module, "resolve", lambda *_, **__: Resolved(codes, 24, 0.0))
    with pytest.raises(TrainingError, match=r"24 items share one semantic ID.*lower joint\.tokenizer_lr"):
        run(joint_params())


def test_reassigned_identifiers_have_no_disambiguation_code():
    params = tiny_params(tokenizer={"codebook_size": 24})
    assert params.tokenizer.codebook_size == 24
    model = new_unified(
        tiny_tokenizer(), np.zeros((24, 2), np.int64), params.joint, teacher_dim=8, resolution="reassign"
    )
    assert model.recommender.config.disambiguation == 0


def test_a_recommender_to_continue_from_gets_room_for_more_colliding_items():
    params = tiny_params()
    codes = np.zeros((24, 2), np.int64)
    trained = fit_disambiguation(start(params.joint).recommender, 2)
    model = new_unified(tiny_tokenizer(), codes, params.joint, 8, resolution="disambiguate", recommender=trained)
    assert model.recommender.config.disambiguation == joint_module.disambiguation_room(codes) > 24
    kept = trained.config.levels * trained.config.codebook_size
    tables = (one.token_table.weight[: kept + 1] for one in (model.recommender, trained))
    torch.testing.assert_close(*tables)


def test_a_set_decoder_learns_the_target_and_the_teachers_distribution():
    data = tiny_data()
    teacher = SASRec(data.sequences.catalogue_size, d_model=8, blocks=1, heads=2, history=6, dropout=0.0)
    changes = {"recommender": {"decoder": "set"}, "w_ranking_distillation": 1.0, "schedule": "constant"}
    trained = run(joint_params(**changes, epochs=6, recommender_lr=0.02, patience=6), data._replace(ranker=teacher))
    losses = [row["loss"] for row in trained.history]
    assert losses[-1] < 0.9 * losses[0]
    assert {"recommendation_loss", "ranking_distillation_loss", "validation_ndcg_at_10"} <= set(trained.history[0])
    queries = start(joint_params(**changes)).recommender.queries
    assert not torch.equal(trained.model.recommender.queries.weight, queries.weight)


def test_same_seed_same_bits_and_another_seed_others():
    first, second, other = run(joint_params()), run(joint_params()), run(joint_params(), seed=8)
    weights, again = first.model.state_dict(), second.model.state_dict()
    assert first.history == second.history
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert other.history != first.history


def test_a_run_stopped_within_an_epoch_resumes_with_the_epochs_codes_and_temperature(tmp_path):
    """Codes read again from the tokenizer of that moment, or another temperature, would give other weights."""
    params = joint_params(tokenizer_lr=0.01, schedule="constant", temperature_start=0.05, temperature_end=0.01)
    whole, answers = run(params), iter([False] * 6 + [True])
    stopping = CheckpointFolder(tmp_path, "key", every_seconds=0.0, stop=lambda: next(answers))
    with pytest.raises(Stopped):
        train(params, tiny_run()._replace(checkpoints=stopping))
    saved, progress = stopping.load()
    assert (progress["epoch"], progress["batch"]) == (1, 2)
    assert not np.array_equal(saved["phase.codes"][:, :2], hard_codes(saved_tokenizer(saved), tiny_data().embeddings))
    resumed = train(params, tiny_run()._replace(checkpoints=CheckpointFolder(tmp_path, "key", every_seconds=60.0)))
    assert resumed.history == whole.history
    weights = resumed.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in whole.model.state_dict().items())


def saved_tokenizer(saved: dict[str, torch.Tensor]) -> Tokenizer:
    """The tokenizer of a joint checkpoint."""
    tokenizer, prefix = tiny_tokenizer(), "model.tokenizer."
    tokenizer.load_state_dict({n.removeprefix(prefix): v for n, v in saved.items() if n.startswith(prefix)})
    return tokenizer


def test_deepspeed_and_torch_train_alike():
    """With dropout: both engines draw it from the seed of the step."""
    plain, deep = (run(joint_params(engine=engine, **WARM)) for engine in ("torch", "deepspeed"))
    assert_alike(plain.history, deep.history, plain.model.state_dict(), other_weights=deep.model.state_dict())


def test_an_embedding_that_is_not_a_number_stops_the_phase():
    data = tiny_data()
    data.embeddings[3, 2] = float("nan")
    with pytest.raises(TrainingError, match="joint: the loss is not finite at epoch 1, step 0: loss nan"):
        run(joint_params(), data)


def assert_alike(history, other_history, weights, other_weights) -> None:
    """Two runs of the same training on different engines or ranks: equal up to rounding."""
    assert len(history) == len(other_history)
    for row, other in zip(history, other_history, strict=True):
        assert row == pytest.approx(other, rel=1e-5, abs=1e-6)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, other_weights[name], rtol=0, atol=1e-5, msg=name)


# Several processes, in a project of their own; one rank runs in this process. The slow tests run the real command. 121
# samples in batches of 24 leave one sample for the last batch: the second rank has none.
SPREAD = {"batch_size": 24, **WARM, "recommender": {"dropout": 0.0}}


RunIn = Callable[[Path, str], subprocess.CompletedProcess[str]]


def command(folder: Path, stage: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "unigrec.cli", "stage", stage]
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=120, env=dict(os.environ))


def alone(folder: Path, stage: str) -> subprocess.CompletedProcess[str]:
    """The stage in this process."""
    with inside(folder), redirect_stdout(io.StringIO()) as output, redirect_stderr(io.StringIO()) as errors:
        running.run_stage(stage, load_params(folder / "params.yaml"))
    return subprocess.CompletedProcess(stage, 0, output.getvalue(), errors.getvalue())


def outputs(
    folder: Path, engine: str, processes: int, causal: bool, run_in: RunIn
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """History and weights of the stage. It prints one line per epoch for any number of ranks."""
    spread = SPREAD | {"recommender": {"dropout": 0.0, "causal": causal}}
    write_project(folder, {"joint": {**spread, "engine": engine, "processes": processes}})
    done = run_in(folder, "joint")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    lines = done.stderr.splitlines()
    assert [line.split("/")[0] for line in lines] == [f"joint: epoch {epoch}" for epoch in (1, 2, 3)], done.stderr
    assert not list((folder / paths.CHECKPOINTS).glob("*"))
    return history_of(folder / Artifacts().joint), files.read_tensors(folder / Artifacts().joint / paths.MODEL_FILE)


def history_of(folder: Path) -> list[dict[str, float]]:
    """The written history without its nulls."""
    rows = files.read_json(folder / paths.HISTORY_FILE)
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def check_two_ranks(folder: Path, engine: str, causal: bool, run_in: RunIn) -> None:
    found = [
        outputs(folder / name, kind, ranks, causal=causal, run_in=how)
        for name, kind, ranks, how in (("1", "torch", 1, alone), ("2", engine, 2, run_in))
    ]
    (history, weights), (other_history, other) = found
    assert_alike(history, other_history, weights, other_weights=other)


@pytest.mark.slow
def test_two_ranks_give_the_losses_and_weights_of_one(tmp_path, capfd):
    def launch(folder: Path, stage: str) -> subprocess.CompletedProcess[str]:
        """As the command does, in this process, which has torch already."""
        with inside(folder):
            run_ranks(["-m", "unigrec.cli", "stage", stage], 2)
        return subprocess.CompletedProcess(stage, 0, *capfd.readouterr())

    check_two_ranks(tmp_path, "torch", causal=True, run_in=launch)


@pytest.mark.slow
def test_two_ranks_give_the_losses_and_weights_of_one_without_causality(tmp_path):
    check_two_ranks(tmp_path, "torch", causal=False, run_in=command)


@pytest.mark.slow
def test_two_ranks_give_the_losses_and_weights_of_one_on_deepspeed(tmp_path):
    check_two_ranks(tmp_path, "deepspeed", causal=True, run_in=command)


@pytest.mark.slow
def test_two_ranks_finetune_like_one_on_deepspeed(tmp_path):
    histories = []
    changes = {"joint": {**SPREAD, "engine": "torch"}, "finetune": {"engine": "torch", "batch_size": 24}}
    write_project(tmp_path / "torch", changes)
    for stage in ("joint", "harden"):
        alone(tmp_path / "torch", stage)
    shutil.copytree(tmp_path / "torch", tmp_path / "deepspeed")
    changes["joint"]["processes"], changes["finetune"]["engine"] = 2, "deepspeed"
    write_project(tmp_path / "deepspeed", changes)
    for folder, run_in in ((tmp_path / "torch", alone), (tmp_path / "deepspeed", command)):
        done = run_in(folder, "finetune")
        assert done.returncode == 0, done.stderr
        histories.append(history_of(folder / Artifacts().finetune))
    for row, other in zip(*histories, strict=True):
        assert row == pytest.approx(other, rel=1e-5, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_loss_that_is_not_finite_is_one_line_and_an_exit_code(tmp_path, processes):
    write_project(tmp_path, {"joint": {"engine": "deepspeed", "processes": processes}})
    embeddings = files.read_tensors(tmp_path / Artifacts().embeddings)["embedding"]
    embeddings[3] = float("nan")
    files.write_tensors(tmp_path / Artifacts().embeddings, {"embedding": embeddings})
    done = command(tmp_path, "joint")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (EXIT_BAD_INPUT, "", 1), done.stderr
    assert done.stderr.startswith("error: joint: the loss is not finite at epoch 1, step 0: loss nan")
    assert not (tmp_path / Artifacts().joint).exists()


def views_and_purchases(weights: dict[str, float]) -> Sequences:
    """Users who view the item seven further and, less often, buy the next one. Each user's last two are purchases."""
    generator = np.random.default_rng(0)
    users, length = 120, 12
    bought = generator.random((users, length)) < 0.3
    bought[:, -2:] = True
    steps = np.where(bought, 1, 7)
    steps[:, 0] = generator.integers(0, ITEMS, users)
    offsets = np.arange(users + 1) * length
    weight = np.where(bought, weights["purchase"], weights["view"]).astype(np.float32).ravel()
    items = (steps.cumsum(1) % ITEMS).ravel()
    return Sequences(items, offsets, ITEMS, weights=weight / weight.mean(), validation=offsets[1:] - 2)


@pytest.mark.slow
def test_weights_of_events_make_the_student_recommend_what_is_bought():
    """The item viewed next is more frequent than the one bought next, and comes first unless purchases weigh more."""
    params = joint_params(epochs=8, validation_users=60, recommender_lr=0.01)
    found = {}
    for name, weights in {"alike": (1.0, 1.0), "purchases": (1.0, 0.1)}.items():
        sequences = views_and_purchases(dict(zip(("purchase", "view"), weights, strict=True)))
        found[name] = run(params, tiny_data()._replace(sequences=sequences)).kept["validation_ndcg_at_10"]
    assert found["purchases"] > found["alike"] + 0.1, found
