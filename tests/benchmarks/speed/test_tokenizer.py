"""Tests of the part tokenizer of the speed benchmark: both sides do the same work."""

from __future__ import annotations

import pytest
from benchmarks.speed.shapes import generated_embeddings
from benchmarks.speed.tokenizer import Ours, Theirs, started_tokenizer

from support.tiny_training import tiny_params


def test_both_loops_have_the_same_losses_epoch_after_epoch():
    params = tiny_params(tokenizer={"batch_size": 16, "codebook_size": 8, "uniformity_weight": 0.1}).tokenizer
    embeddings = generated_embeddings(64, 12)  # four full batches, because DataLoader makes a smaller last batch
    start = started_tokenizer(embeddings, params)
    ours, theirs = Ours(start, embeddings, params), Theirs(start, embeddings, params)
    losses = [(ours.epoch(number), theirs.epoch(number)) for number in range(4)]
    for our_loss, their_loss in losses:
        assert our_loss == pytest.approx(their_loss, rel=1e-4)
    assert losses[-1][0] < losses[0][0]
