"""The prefix tree, level by level, and the children of some of its nodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.small import few
from support.small_catalogue import USERS, catalogue
from unigrec.core.identifiers.collisions import disambiguate
from unigrec.core.retrieval.prefix_tree import PrefixTree, check_tree


def test_tree_rows_are_the_prefixes_of_the_catalogue():
    codes = np.array([[2, 0, 0], [0, 1, 0], [0, 1, 1], [0, 3, 0], [2, 0, 1]])
    tree = PrefixTree(codes)
    assert tree.order.tolist() == [1, 2, 3, 0, 4]
    assert tree.rank[tree.order].tolist() == [0, 1, 2, 3, 4]
    assert tree.levels[1].code.tolist() == [0, 2]
    assert tree.levels[2].code.tolist() == [1, 3, 0]
    assert tree.levels[3].code.tolist() == [0, 1, 0, 0, 1]
    assert [level.first_child.tolist() for level in tree.levels[:3]] == [[0, 2], [0, 2, 3], [0, 2, 3, 5]]
    assert [level.item_range.tolist() for level in tree.levels[:3]] == [[0, 5], [0, 3, 5], [0, 2, 3, 5]]
    assert [level.most_children.tolist() for level in tree.levels[:3]] == [[2], [2, 3], [2, 4, 5]]


@few
@given(st.integers(0, 10_000), st.integers(1, 40), st.booleans())
def test_children_of_some_nodes_are_laid_end_to_end(seed: int, items: int, one_wide: bool):
    codes, generator = catalogue(items, seed), np.random.default_rng(seed)
    if one_wide:  # many items under one prefix, and few under any other
        codes = disambiguate(np.r_[codes[:, :2], np.zeros((30, 2), int)], np.zeros(items + 30)).codes
    tree = PrefixTree(codes)
    for depth in range(tree.depth):
        level = tree.levels[depth]
        width = int(generator.integers(1, len(level.code) + 1))
        nodes = torch.as_tensor(np.stack([generator.permutation(len(level.code))[:width] for _ in range(USERS)]))
        alive = torch.as_tensor(generator.random((USERS, width)) < 0.7)
        found, parents, exists = tree.children(depth, nodes, alive)
        most = sorted(level.first_child.diff().tolist(), reverse=True)[:width]
        assert found.shape == parents.shape == exists.shape == (USERS, sum(most))
        for row in range(USERS):
            expected = [
                (child, place)
                for place, node in enumerate(nodes[row].tolist())
                if alive[row, place]
                for child in range(int(level.first_child[node]), int(level.first_child[node + 1]))
            ]
            taken = exists[row]
            assert list(zip(found[row, taken].tolist(), parents[row, taken].tolist(), strict=True)) == expected


def test_tree_of_colliding_identifiers_is_an_error():
    with pytest.raises(ValueError, match="1 items share a semantic ID"):
        PrefixTree(np.array([[0, 1], [1, 1], [0, 1]]))


def wrapped(starts: torch.Tensor) -> torch.Tensor:
    """Starts far outside, whose differences in 64 bits are above 0."""
    return torch.cat([starts[:1], torch.tensor([2**62 + 2**61, -(2**62) - 2**61]), starts[3:]])


def test_a_stored_tree_is_the_tree():
    codes = catalogue(40, 3)
    tree = PrefixTree(codes)
    check_tree(tree.tensors(), codes)
    other = PrefixTree(codes, stored=tree.tensors())
    assert torch.equal(other.order, tree.order)
    assert torch.equal(other.rank, tree.rank)
    for one, two in zip(tree.levels, other.levels, strict=True):
        assert [part.tolist() for part in one] == [part.tolist() for part in two]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("order", lambda part: part + 1),
        ("order", lambda part: part.int()),
        ("rank", lambda part: torch.zeros_like(part)),
        ("rank", lambda part: part[:-1]),
        ("code_1", lambda part: part + 10**6),
        ("code_2", lambda part: part - 1),
        ("first_child_1", lambda part: part.flip(0)),
        ("item_range_1", lambda part: part + 1),
        ("item_range_2", lambda part: part[1:]),
        ("item_range_2", wrapped),
        ("most_children_1", lambda part: part * 2),
    ],
)
def test_a_damaged_stored_tree_is_an_error(name, change):
    codes = catalogue(40, 3)
    stored = PrefixTree(codes).tensors()
    with pytest.raises(ValueError, match="stored prefix tree"):
        check_tree(stored | {name: change(stored[name])}, codes)
    del stored[name]
    with pytest.raises(ValueError, match="a stored prefix tree has order, rank"):
        check_tree(stored, codes)
