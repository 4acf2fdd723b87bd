"""Tests of the part training of the speed benchmark: the baseline computes the same, and the tables are filled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.speed.harness import Options
from benchmarks.speed.t5 import PublicParts, padded_samples
from benchmarks.speed.training import LENGTHS, ROWS, run

from support.project import PARAMS_FILE
from support.small import random_sequences, small_recommender, small_tokenizer
from unigrec.config.read import load_params
from unigrec.core.models.unified import UnifiedModel
from unigrec.core.training.joint import JointData, joint_losses
from unigrec.core.training.samples import make_samples

PARAMS = load_params(PARAMS_FILE).joint.model_copy(
    update={"uniformity_weight": 0.1, "distillation_temperature": 0.3, "precision": "fp32"}
)


def test_public_parts_give_the_same_losses_and_gradients():
    sequences = random_sequences(users=6, items=10, longest=8, seed=1)
    batch = sequences.segment_batch(sequences.window_segments(5))
    torch.manual_seed(0)
    data = JointData(sequences, torch.randn(10, 6), torch.randn(10, 7))
    codes = torch.randint(0, 4, (10, 4))
    ours = UnifiedModel(small_tokenizer(), small_recommender(disambiguation=4, dropout=0.0), 7).train()
    theirs = PublicParts(ours).train()
    found = []
    for model, samples in ((ours, make_samples(batch, torch.device("cpu"))), (theirs, padded_samples(batch, 6))):
        ours.zero_grad()
        losses = joint_losses(model, samples, codes, data, PARAMS, 0.3, distil=True)
        losses["loss"].backward()
        shared = [parameter.grad for parameter in ours.tokenizer.parameters()]
        found.append((losses, [ours.state_to_teacher.weight.grad, ours.history_to_code.weight.grad, *shared]))
        if model is ours:
            expected = [parameter.grad for _, parameter in theirs.copied(ours.recommender)]
    (losses, shared), (their_losses, their_shared) = found
    assert set(losses) == set(their_losses)
    for name, value in losses.items():
        torch.testing.assert_close(value.detach(), their_losses[name].detach(), rtol=1e-5, atol=1e-6, msg=name)
    gradients = [
        (parameter.grad, one) for (parameter, _), one in zip(theirs.copied(ours.recommender), expected, strict=True)
    ]
    for one, other in [*gradients, *zip(their_shared, shared, strict=True)]:
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


@pytest.mark.long
def test_every_cell_of_the_tables_is_measured(tmp_path: Path):
    steps, growth = run(Options(tmp_path, quick=True))
    assert [row["step"] for row in steps.rows] == list(ROWS)
    assert all(value for row in (*steps.rows, *growth.rows) for value in row.values())
    assert len(growth.rows) < len(LENGTHS)
