"""Tests of the part teacher of the speed benchmark: both sides do the same work."""

from __future__ import annotations

import pytest
import torch
from benchmarks.speed.shapes import generated_sequences
from benchmarks.speed.teacher import Ours, Theirs, last_pieces

from support.tiny_training import tiny_params
from unigrec.core.training.teacher import new_teacher


@pytest.mark.parametrize("masked", [False, True])
def test_both_sides_have_the_same_losses_step_after_step(masked: bool):
    params = tiny_params(
        teacher={"architecture": "sasrec", "repeat_bias": False, "d_model": 16, "history": 10, "dropout": 0.0}
    ).teacher
    sequences = generated_sequences(30, 50)
    torch.manual_seed(0)
    start = new_teacher(50, params)
    theirs = Theirs(start, params, masked)
    ours = Ours(start, params)
    pieces = last_pieces(sequences, params.history)
    for rows in range(0, 30, 10):
        batch = sequences.teacher_batch(pieces[rows : rows + 10])
        assert ours.step(*batch) == pytest.approx(theirs.step(*batch), rel=1e-5)
