"""Vectors side by side: what a copy of all of them would give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support.tiny_training import ITEMS, WIDTH, tiny_embeddings, tiny_params, tiny_run
from unigrec.core.identifiers.health import health
from unigrec.core.models.vectors import ItemVectors, columns
from unigrec.core.training.tokenizer import train_tokenizer

COPY = tiny_embeddings()
PARTS = ItemVectors([COPY[:, :5], COPY[:, 5:]])


@pytest.mark.parametrize("rows", [torch.tensor([3, 0, 3]), np.array([2, 1]), slice(1, 7), torch.arange(ITEMS) % 2 == 0])
def test_rows_are_those_of_the_copy(rows):
    assert torch.equal(PARTS[rows], COPY[rows])


def test_an_index_of_rows_and_columns_is_refused():
    with pytest.raises(TypeError, match="columns"):
        PARTS[:, :2]


def test_it_has_the_shape_of_the_copy_and_gives_all_vectors_in_order():
    assert (PARTS.shape, len(PARTS), PARTS.numel()) == (COPY.shape, len(COPY), COPY.numel())
    assert [part.tolist() for part in PARTS.split(7)] == [part.tolist() for part in COPY.split(7)]
    assert all(torch.equal(columns(PARTS, width), COPY[:, :width]) for width in (0, 3, 5, 7, WIDTH))


def test_what_is_on_the_device_already_is_not_copied():
    assert PARTS.to(torch.device("cpu")).parts[0].data_ptr() == PARTS.parts[0].data_ptr()
    assert columns(PARTS, 3).data_ptr() == PARTS.parts[0].data_ptr()


def test_a_tokenizer_that_is_trained_on_them_has_the_same_bits_and_the_same_health():
    params = tiny_params().tokenizer
    both = [train_tokenizer(vectors, params, tiny_run()) for vectors in (COPY, PARTS)]
    one, other = (trained.model.state_dict() for trained in both)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert both[0].history == both[1].history
    figures = [health(both[0].model, vectors, np.ones(ITEMS), 0.01, widths=[5, 3]) for vectors in (COPY, PARTS)]
    assert figures[0] == figures[1]
