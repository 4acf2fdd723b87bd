"""The last phase: the recommender alone, on hardened identifiers, without a tokenizer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from support.tiny_training import CPU, ITEMS, WIDTH, tiny_data, tiny_params, tiny_run, tiny_tokenizer
from unigrec.core.identifiers.collisions import disambiguate, hard_codes
from unigrec.core.models.recommender import Recommender, RecommenderConfig, fit_disambiguation
from unigrec.core.models.unified import expand_history
from unigrec.core.retrieval.beam import Repeats, exact_scores
from unigrec.core.sequences import Segments
from unigrec.core.training.finetune import hardened_logits, train_finetune
from unigrec.core.training.samples import Samples, make_samples
from unigrec.core.training.student_validation import hard_tokens
from unigrec.core.training.teacher import new_teacher

LEVELS, CODEWORDS = 2, 4
SHAPE = {"d_model": 16, "d_ff": 32, "heads": 2, "d_kv": 8, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.1}
SHAPE |= {"levels": LEVELS, "codebook_size": CODEWORDS}


def recommender(disambiguation: int, **changes) -> Recommender:
    torch.manual_seed(0)
    return Recommender(RecommenderConfig(**SHAPE, disambiguation=disambiguation, **changes))


def hardened() -> np.ndarray:
    return disambiguate(hard_codes(tiny_tokenizer(), tiny_data().embeddings), np.zeros(ITEMS)).codes


def run(model: Recommender, seed: int = 7, **changes):
    params, data = tiny_params(finetune=changes), tiny_data()
    return train_finetune(
        data.sequences,
        model,
        hardened(),
        params=params.finetune,
        joint_params=params.joint,
        run=tiny_run(seed),
        vectors=data.embeddings if model.config.vector_width else None,
    )


@pytest.mark.parametrize("size", [0, 3, 8, 11])
def test_another_range_of_the_disambiguation_code_keeps_the_rows(size):
    old = recommender(8)
    new = fit_disambiguation(old, size)
    first = 1 + LEVELS * CODEWORDS
    table, before = new.token_table.weight, old.token_table.weight
    assert len(table) == first + size
    assert torch.equal(table[: first + min(size, 8)], before[: first + min(size, 8)])
    for row in table[first + 8 :]:
        torch.testing.assert_close(row, before[first:].mean(0))
    others = {name: value for name, value in old.state_dict().items() if name != "token_table.weight"}
    assert all(torch.equal(new.state_dict()[name], value) for name, value in others.items())
    assert new.config.code_sizes == [CODEWORDS] * LEVELS + [size] * (size > 0)


def test_a_range_that_fits_already_changes_nothing_and_a_new_one_is_finite():
    old = recommender(8)
    assert fit_disambiguation(old, 8) is old
    grown = fit_disambiguation(recommender(0), 3)
    assert bool(grown.token_table.weight.isfinite().all())


def test_no_epochs_keep_the_weights():
    codes = hardened()
    model = recommender(int(codes[:, -1].max()) + 1)
    before = copy.deepcopy(model.state_dict())
    trained = run(model, epochs=0)
    assert trained.history == []
    assert all(torch.equal(before[name], value) for name, value in trained.model.state_dict().items())


def test_the_untouched_recommender_is_a_candidate():
    history = run(recommender(8), epochs=2).history
    assert (history[0]["epoch"], history[0]["step"]) == (0, 0)
    assert "validation_ndcg_at_10" in history[0]
    assert [row["epoch"] for row in history[1:]] == [1, 2]


@pytest.mark.parametrize("vector_width", [0, WIDTH])
def test_the_loss_falls_and_every_weight_is_trained(vector_width):
    model = recommender(8, vector_width=vector_width)
    before = fit_disambiguation(copy.deepcopy(model), int(hardened()[:, -1].max()) + 1).state_dict()
    trained = run(model, epochs=8, lr=0.005, schedule="constant", patience=8)
    losses = [row["loss"] for row in trained.history[1:]]
    assert losses[-1] < 0.8 * losses[0]
    assert not any(torch.equal(before[name], value) for name, value in trained.model.state_dict().items())


def test_codes_alone_are_the_input():
    """Padding of a history, and the codes in it, change nothing."""
    model = recommender(8, repeat_bias=True).eval()
    codes = torch.as_tensor(hardened())
    one, other, short = (
        hardened_logits(model, samples_of(history, length=2), codes, codes[torch.tensor([[5]])])
        for history in ([3, 4, 0, 0], [3, 4, 5, 7], [3, 4])
    )
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(one, short)


def samples_of(history: list[int], length: int) -> Samples:
    """One history with one target, item 5."""
    batch = Segments(
        np.array([history]), np.array([length]), np.ones(1, np.int64), np.array([5]), np.zeros(1, np.int64)
    )
    samples = make_samples(batch, CPU)
    rows = torch.tensor([[samples.items.tolist().index(item) for item in history[:length]]])
    return samples._replace(history=torch.cat([rows, samples.history[:, length:]], dim=1))


@pytest.mark.parametrize("vector_width", [0, WIDTH])
def test_training_decodes_what_the_exact_scorer_scores(vector_width):
    """With a repeat bias too: decoded items of the history, a sibling of one, and others."""
    model, codes = recommender(8, repeat_bias=True, vector_width=vector_width).eval(), torch.as_tensor(hardened())
    vectors = tiny_data().embeddings
    torch.nn.init.normal_(model.repeat_bias.weight, std=3.0)
    history = torch.tensor([[3, 9, 3, 4, 12]])
    logits = hardened_logits(model, samples_of(history[0].tolist(), length=5), codes, codes[None], vectors)
    scores = sum(
        scores.log_softmax(-1).gather(2, codes[None, :, position, None])[..., 0]
        for position, scores in enumerate(logits)
    )
    source, mask = expand_history(hard_tokens(model, codes, vectors), history, torch.tensor([5]))
    repeats = Repeats.of(model, history, torch.tensor([5]))
    torch.testing.assert_close(scores, exact_scores(model, codes, source, mask, repeats=repeats))


def test_deepspeed_and_torch_train_alike():
    plain, deep = (run(recommender(8), engine=engine, epochs=2) for engine in ("torch", "deepspeed"))
    for row, other in zip(plain.history, deep.history, strict=True):
        assert row == pytest.approx(other, rel=1e-5)
    for one, other in zip(plain.model.parameters(), deep.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_the_teachers_ranking_joins_the_loss_where_params_ask_for_it():
    params = tiny_params(finetune={"epochs": 2, "w_ranking_distillation": 0.5})
    torch.manual_seed(0)
    teacher = new_teacher(ITEMS, params.teacher)
    arguments = tiny_data().sequences, recommender(8), hardened(), params.finetune, params.joint, tiny_run()
    row = train_finetune(*arguments, teacher=teacher).history[-1]
    assert row["loss"] == pytest.approx(row["recommendation_loss"] + 0.5 * row["ranking_distillation_loss"])
    assert set(train_finetune(*arguments).history[-1]).isdisjoint({"ranking_distillation_loss"})
