"""The joint model: the tokenizer runs once per distinct item, which changes no loss and no gradient."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from support.project import PARAMS_FILE
from support.small import few, padded, random_sequences, small_recommender, small_tokenizer
from unigrec.config.read import load_params
from unigrec.core.identifiers.collisions import hard_codes
from unigrec.core.losses import recommendation_loss, uniformity_loss
from unigrec.core.models.recommender import Recommender
from unigrec.core.models.unified import Asked, UnifiedModel, expand_history
from unigrec.core.sequences import Segments
from unigrec.core.training.finetune import hardened_logits
from unigrec.core.training.joint import JointData, fixed_identifiers, joint_losses, trained_groups
from unigrec.core.training.samples import Samples, make_samples

ITEMS, TEACHER_DIM, CPU = 10, 7, torch.device("cpu")
PARAMS = load_params(PARAMS_FILE).joint.model_copy(
    update={
        "precision": "fp32",
        "reconstruction_weight": 0.5,
        "uniformity_weight": 0.1,
        "w_tokenizer_distillation": 0.2,
        "w_recommender_distillation": 0.3,
        "distillation_temperature": 0.3,
        "contrast_temperature": 0.07,
    }
)
BATCH = Segments(
    items=np.array([[4, 4, 7, 1], [7, 0, 0, 0], [4, 9, 0, 0], [1, 2, 3, 0]]),
    lengths=np.array([4, 1, 2, 3]),
    counts=np.ones(4, np.int64),
    targets=np.array([7, 4, 5, 4]),
    positions=np.arange(4),
)
TEMPERATURE = 0.3
IDENTIFIERS = torch.zeros(ITEMS, 3, dtype=torch.long)
IDENTIFIERS[[7, 4, 5]] = torch.tensor([[0, 1, 2], [3, 0, 1], [2, 2, 2]])  # of the targets


def model(seed: int = 0) -> UnifiedModel:
    tokenizer = small_tokenizer(seed=seed)
    return UnifiedModel(tokenizer, small_recommender(seed=seed), TEACHER_DIM).eval()


def data(seed: int = 0) -> JointData:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(ITEMS, 6, generator=generator)
    return JointData(None, embeddings, torch.randn(ITEMS, TEACHER_DIM, generator=generator))


def per_position(batch: Segments) -> Samples:
    """The batch without deduplication: each history position and each target counts as a distinct item."""
    exists = torch.as_tensor(np.arange(batch.items.shape[1]) < batch.lengths[:, None])
    history = torch.zeros(batch.items.shape, dtype=torch.long)
    history[exists] = torch.arange(int(exists.sum()))
    targets = torch.as_tensor(batch.targets)
    items = torch.cat([torch.as_tensor(batch.items)[exists], targets])
    return Samples(
        items=items,
        occurrences=torch.ones(len(items), dtype=torch.long),
        history=history,
        lengths=torch.as_tensor(batch.lengths),
        counts=torch.as_tensor(batch.counts),
        targets=targets,
        positions=batch.positions,
        batch_targets=targets,
        batch_sizes=[len(targets)],
        batch_occurrences=len(items),
    )


def losses_and_gradients(
    samples: Samples, identifiers: Tensor, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    unified, known = model(seed).to(dtype), data(seed)
    known = JointData(None, known.embeddings.to(dtype), known.teacher.to(dtype))
    samples = samples._replace(occurrences=samples.occurrences.to(dtype))
    losses = joint_losses(unified, samples, identifiers, known, PARAMS, TEMPERATURE, distil=True)
    losses["loss"].backward()
    return losses, {name: parameter.grad for name, parameter in trained(unified).items()}


def trained(unified: UnifiedModel) -> dict[str, Tensor]:
    """All parameters except the teacher's projection, which is fitted once."""
    return {name: p for name, p in unified.named_parameters() if not name.startswith("teacher_to_code")}


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


def random_batch(seed: int) -> Segments:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 6, 4)
    items = np.where(np.arange(lengths.max()) < lengths[:, None], generator.integers(0, ITEMS, (4, lengths.max())), 0)
    return Segments(items, lengths, np.ones(4, np.int64), generator.integers(0, ITEMS, 4), np.arange(4))


@few
@given(st.integers(0, 10_000))
def test_once_a_distinct_item_equals_once_a_history_position_in_losses_and_gradients(seed: int):
    batch = random_batch(seed)
    identifiers = torch.as_tensor(np.random.default_rng(seed).integers(0, 4, (ITEMS, 3)))
    with patch.object(Tensor, "float", lambda tensor: tensor):  # single precision alone rounds by 1e-6
        once, gradients = losses_and_gradients(make_samples(batch, CPU), identifiers, seed, torch.float64)
        plain, plain_gradients = losses_and_gradients(per_position(batch), identifiers, seed, torch.float64)
    for name, value in plain.items():
        torch.testing.assert_close(once[name], value, rtol=1e-9, atol=1e-9)
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-9)


def test_reconstruction_and_uniformity_average_over_history_items_and_targets_as_often_as_they_occur():
    unified, known = model(), data()
    losses = joint_losses(unified, make_samples(BATCH, CPU), IDENTIFIERS, known, PARAMS, TEMPERATURE, distil=False)
    occurring = [4, 4, 7, 1, 7, 4, 9, 1, 2, 3, 7, 4, 5, 4]
    embeddings = known.embeddings[occurring]
    soft = unified.tokenizer.quantize_soft(unified.tokenizer.encoder(embeddings), TEMPERATURE)
    error = (unified.tokenizer.decode(soft.quantized) - embeddings).square().mean()
    torch.testing.assert_close(losses["reconstruction_loss"], error)
    torch.testing.assert_close(losses["uniformity_loss"], uniformity_loss(soft.probabilities.mean(0)))


def test_the_tokenizer_encodes_each_distinct_item_once():
    unified, rows = model(), []
    unified.tokenizer.encoder.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    joint_losses(unified, make_samples(BATCH, CPU), IDENTIFIERS, data(), PARAMS, TEMPERATURE, distil=True)
    assert rows == [len({1, 2, 3, 4, 5, 7, 9})]


def causal_model() -> UnifiedModel:
    config = replace(small_recommender().config, causal=True)
    torch.manual_seed(0)
    return UnifiedModel(small_tokenizer(seed=0), Recommender(config), TEACHER_DIM).eval()


def test_one_pass_over_a_segment_equals_a_pass_for_each_of_its_prefixes():
    """With a causal encoder, a target in a row with several targets has the loss of a row with that target alone."""
    sequences = random_sequences(users=6, items=ITEMS, longest=8, seed=1)
    assert sequences.train_ends.max() > 0
    known, found = data(), {}
    for name, pieces in (("together", sequences.segments(history=9)), ("apart", sequences.window_segments(history=9))):
        order = np.argsort(pieces[:, 1], kind="stable")
        samples = make_samples(sequences.segment_batch(pieces[order]), CPU)
        codes = torch.as_tensor(np.random.default_rng(0).integers(0, 4, (ITEMS, 2, 3)))[samples.targets]  # (P, R, T)
        unified = causal_model()
        embeddings, teacher = known.embeddings[samples.items], known.teacher[samples.targets]
        output = unified(embeddings, samples.asked(codes, IDENTIFIERS), teacher, 0.3, distillation_temperature=0.3)
        recommendation_loss([of.flatten(0, 1) for of in output.logits], codes.flatten(0, 1)).mean().backward()
        found[name] = output, unified.recommender.encoder.layers[0].feed_in.weight.grad
    (together, gradient), (apart, other) = found["together"], found["apart"]
    torch.testing.assert_close(together.logits, apart.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        together.history_log_probabilities, apart.history_log_probabilities, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)


def test_a_rank_without_rows_has_empty_outputs():
    none = torch.zeros(0, dtype=torch.long)
    asked = Asked(none.view(0, 0), none, none, none.view(0, 1, 3), none, IDENTIFIERS)
    output = model()(torch.zeros(0, 6), asked, torch.zeros(0, TEACHER_DIM), 0.3, distillation_temperature=0.3)
    assert output.history_log_probabilities.shape == output.teacher_log_probabilities.shape == (0, 3, 4)
    assert output.student_state.shape == (0, TEACHER_DIM)


def test_several_identifiers_after_a_history_are_decoded_as_each_of_them_alone():
    samples, known = make_samples(BATCH, CPU), data()
    embeddings, teacher = known.embeddings[samples.items], known.teacher[samples.targets]
    codes = torch.as_tensor(np.random.default_rng(0).integers(0, 4, (4, 3, 3)))  # (P, R, T)
    for unified in (model(), causal_model()):

        def logits(codes: Tensor, unified: UnifiedModel = unified) -> list[Tensor]:
            return unified(embeddings, samples.asked(codes, IDENTIFIERS), teacher, 0.3).logits

        together = logits(codes)
        for each in range(3):
            alone = logits(codes[:, each : each + 1])
            torch.testing.assert_close([of[:, each : each + 1] for of in together], alone)


def test_without_causality_a_later_item_changes_what_earlier_ones_say():
    unified = model()
    source = torch.randn(1, 3 * 3, unified.recommender.config.d_model)
    mask = torch.ones(1, 9, dtype=torch.bool)
    changed = source.clone()
    changed[:, 6:] += 1.0
    for one, same in ((unified, False), (causal_model(), True)):
        before, after = (one.recommender.encode(given, mask)[:, :6] for given in (source, changed))
        assert torch.allclose(before, after, atol=1e-6) is same


def test_samples_number_the_distinct_items_and_count_them():
    samples = make_samples(BATCH, CPU)
    assert samples.items.tolist() == [1, 2, 3, 4, 5, 7, 9]
    assert samples.occurrences.tolist() == [2, 1, 1, 5, 1, 3, 1]
    assert samples.batch_occurrences == samples.occurrences.sum() == 14
    exists = padded(BATCH.lengths.tolist(), 4)
    assert torch.equal(samples.items[samples.history][exists], torch.as_tensor(BATCH.items)[exists])


def test_expand_history_lays_out_levels_of_items_in_order_and_masks_padding():
    tokens = torch.arange(6.0).view(3, 2, 1)  # item i has the tokens 2i and 2i + 1
    source, mask = expand_history(tokens, torch.tensor([[2, 0], [1, 0]]), torch.tensor([2, 1]))
    assert source[..., 0].tolist() == [[4, 5, 0, 1], [2, 3, 0, 1]]
    assert mask.tolist() == [[True] * 4, [True, True, False, False]]


def test_more_padding_changes_no_loss():
    wider = BATCH._replace(items=np.pad(BATCH.items, ((0, 0), (0, 3))))
    plain, _ = losses_and_gradients(make_samples(BATCH, CPU), IDENTIFIERS, 0)
    padded_more, _ = losses_and_gradients(make_samples(wider, CPU), IDENTIFIERS, 0)
    for name, value in plain.items():
        torch.testing.assert_close(padded_more[name], value)


def test_loss_is_the_weighted_sum_and_distillation_joins_only_when_asked():
    losses, _ = losses_and_gradients(make_samples(BATCH, CPU), IDENTIFIERS, 0)
    expected = (
        losses["recommendation_loss"]
        + 0.5 * losses["reconstruction_loss"]
        + 0.1 * losses["uniformity_loss"]
        + 0.2 * losses["tokenizer_distillation_loss"]
        + 0.3 * losses["recommender_distillation_loss"]
    )
    torch.testing.assert_close(losses["loss"], expected)
    before = joint_losses(model(), make_samples(BATCH, CPU), IDENTIFIERS, data(), PARAMS, TEMPERATURE, distil=False)
    assert set(losses) - set(before) == {"tokenizer_distillation_loss", "recommender_distillation_loss"}


def test_every_parameter_learns_and_belongs_to_one_group_with_the_tokenizer_apart():
    unified = model()
    joint_losses(unified, make_samples(BATCH, CPU), IDENTIFIERS, data(), PARAMS, TEMPERATURE, distil=True)[
        "loss"
    ].backward()
    for name, parameter in trained(unified).items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert unified.teacher_to_code.weight.grad is None
    rest, tokenizer = trained_groups(unified, PARAMS)
    ids = [id(parameter) for parameter in (*rest["params"], *tokenizer["params"])]
    assert sorted(ids) == sorted(id(parameter) for parameter in trained(unified).values())
    assert {id(parameter) for parameter in unified.tokenizer.parameters()} == {id(p) for p in tokenizer["params"]}
    assert (rest["lr"], tokenizer["lr"]) == (PARAMS.recommender_lr, PARAMS.tokenizer_lr)


def test_a_cold_step_at_the_paper_temperature_has_finite_gradients():
    unified = model()
    cold = PARAMS.model_copy(update={"distillation_temperature": 0.001})
    joint_losses(unified, make_samples(BATCH, CPU), IDENTIFIERS, data(), cold, 0.001, distil=True)["loss"].backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in trained(unified).values())


def test_the_teacher_projection_is_the_ridge_regression_of_latents_on_teacher_embeddings():
    unified, known = model(), data()
    unified.fit_teacher_projection(known.embeddings, known.teacher, ridge=0.1)
    latent = unified.tokenizer.encoder(known.embeddings).detach()
    teacher, target = known.teacher - known.teacher.mean(0), latent - latent.mean(0)
    penalty = 0.1 * teacher.square().sum(0).mean()
    # Ridge is ordinary least squares with rows of sqrt(penalty) added for each weight.
    rows = torch.cat([teacher, penalty.sqrt() * torch.eye(TEACHER_DIM)])
    expected = torch.linalg.lstsq(rows, torch.cat([target, torch.zeros(TEACHER_DIM, target.shape[1])])).solution
    torch.testing.assert_close(unified.teacher_to_code.weight, expected.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(unified.teacher_to_code(known.teacher).mean(0), latent.mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["hard", "frozen"])
def test_a_fixed_identifier_gets_no_gradient_and_the_hard_one_is_a_table_lookup(kind):
    unified, known, samples = model(), data(), make_samples(BATCH, CPU)
    params = PARAMS.model_copy(update={"tokenizer": kind})
    fixed = fixed_identifiers(unified.tokenizer, known.embeddings[samples.items], TEMPERATURE, kind == "hard")
    losses = joint_losses(unified, samples, IDENTIFIERS, known, params, TEMPERATURE, distil=False, fixed=fixed)
    losses["loss"].backward()
    assert set(losses) == {"loss", "recommendation_loss"}
    assert all(parameter.grad is None for parameter in unified.tokenizer.parameters())
    assert len(trained_groups(unified, params)) == 1
    if kind == "hard":
        codes = torch.as_tensor(hard_codes(unified.tokenizer, known.embeddings))
        targets = IDENTIFIERS[samples.targets]
        plain = hardened_logits(unified.recommender, samples, codes, targets[:, None])
        expected = recommendation_loss([of[:, 0] for of in plain], targets).mean()
        torch.testing.assert_close(losses["recommendation_loss"], expected)


def test_autocast_gives_float32_outputs_near_those_of_full_precision():
    unified, known, samples = model(), data(), make_samples(BATCH, CPU)
    embeddings, teacher = known.embeddings[samples.items], known.teacher[samples.targets]
    targets = IDENTIFIERS[samples.targets]
    arguments = embeddings, samples.asked(targets[:, None], IDENTIFIERS), teacher, 0.3
    full, half = unified(*arguments), unified(*arguments, autocast=True)
    for name in ("logits", "probabilities", "reconstructed", "student_state"):
        value = getattr(half, name)
        for ours, exact in zip(value, getattr(full, name), strict=True):
            assert ours.dtype == torch.float32, name
            torch.testing.assert_close(ours, exact, rtol=0.1, atol=0.2)
    assert torch.equal(half.probabilities, full.probabilities)  # the tokenizer never runs in half precision


def test_seeded_losses_are_the_golden_ones():
    losses, gradients = losses_and_gradients(make_samples(BATCH, CPU), IDENTIFIERS, 0)
    golden = {
        "recommendation_loss": 1.486955,
        "reconstruction_loss": 0.885549,
        "uniformity_loss": -1.945427,
        "tokenizer_distillation_loss": 13.774159,
        "recommender_distillation_loss": 5.120047,
        "loss": 6.026033,
    }
    assert {name: float(value.detach()) for name, value in losses.items()} == pytest.approx(golden, rel=1e-4)
    assert float(flat(gradients).norm()) == pytest.approx(18.50346, rel=1e-4)
