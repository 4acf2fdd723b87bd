"""Constrained beam search against the exact scorer, a plain Python beam, and filtered exact scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from support.small import few, small_recommender
from support.small_catalogue import USERS, catalogue, histories, recommender_of
from unigrec.core.identifiers.collisions import disambiguate
from unigrec.core.models.inference import InferenceRecommender
from unigrec.core.models.recommender import Recommender
from unigrec.core.retrieval.beam import BeamResult, Repeats, beam_search, beam_searches, exact_scores
from unigrec.core.retrieval.decoder_cache import DecoderCache
from unigrec.core.retrieval.prefix_tree import PrefixTree, Restriction


def top(scores: Tensor, permitted: Tensor, beam: int) -> tuple[list[list[int]], list[list[float]]]:
    """Exact scores (B, N) and what is permitted -> the best items and their scores, cut to those that exist."""
    items, values = [], []
    for row, allowed in zip(scores, permitted, strict=True):
        order = sorted(allowed.nonzero().flatten().tolist(), key=lambda item: -float(row[item]))[:beam]
        items.append(order)
        values.append([float(row[item]) for item in order])
    return items, values


def assert_best(found: BeamResult, scores: Tensor, permitted: Tensor, beam: int) -> None:
    """`found` is the exact top of the permitted items, then -1 at score -inf."""
    expected, values = top(scores, permitted, beam)
    for row in range(len(scores)):
        count = len(expected[row])
        assert found.items[row, :count].tolist() == expected[row]
        assert found.scores[row, :count].tolist() == pytest.approx(values[row], abs=1e-4)
        assert (found.items[row, count:] == -1).all()
        assert (found.scores[row, count:] == float("-inf")).all()


everything = torch.ones(USERS, 1, dtype=torch.bool)


def test_exact_scores_are_log_probabilities_over_all_code_tuples():
    codes = np.stack(np.meshgrid(range(4), range(4), range(2), indexing="ij"), -1).reshape(-1, 3)
    scores = exact_scores(recommender_of(codes), torch.as_tensor(codes), *histories(), chunk=5)
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(USERS))


@few
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 3), st.booleans())
def test_a_wide_beam_equals_the_exact_ranking(seed: int, items: int, levels: int, causal: bool):
    codes = catalogue(items, seed, levels)
    recommender, inputs = recommender_of(codes, seed, causal=causal), histories(seed)
    found = beam_search(recommender, PrefixTree(codes), *inputs, beam=items)
    scores = exact_scores(recommender, torch.as_tensor(codes), *inputs)
    assert_best(found, scores, everything.expand(-1, items), beam=items)


@few
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 3))
def test_a_repeat_bias_changes_the_leaves_of_the_history_and_beam_and_exact_scores_agree(
    seed: int, items: int, levels: int
):
    codes = catalogue(items, seed, levels)
    recommender, inputs = recommender_of(codes, seed, repeat_bias=True), histories(seed)
    assert recommender.repeat_bias is not None
    torch.nn.init.normal_(recommender.repeat_bias.weight, std=3.0)
    history = torch.as_tensor(np.random.default_rng(seed).integers(0, items, (USERS, 6)))
    repeats = Repeats.of(recommender, history, torch.tensor([6, 4, 2]))
    scores = exact_scores(recommender, torch.as_tensor(codes), *inputs, repeats=repeats)
    found = beam_search(recommender, PrefixTree(codes), *inputs, beam=items, repeats=repeats)
    assert_best(found, scores, everything.expand(-1, items), beam=items)


def plain_beam(recommender: Recommender, codes: np.ndarray, source: Tensor, mask: Tensor, beam: int) -> list[tuple]:
    """One user's beam search over Python tuples, each prefix scored by itself with teacher forcing."""
    prefixes: list[tuple[float, tuple]] = [(0.0, ())]
    for depth in range(codes.shape[1]):
        grown = []
        for score, prefix in prefixes:
            filled = torch.tensor([[*prefix] + [0] * (codes.shape[1] - depth)])
            with torch.no_grad():
                output = recommender.decode(recommender.encode(source, mask), mask, filled[:, None])[:, 0, depth]
                log_p = recommender.position_logits(output, depth).log_softmax(-1)[0]
            following = {tuple(code[: depth + 1].tolist()) for code in codes if tuple(code[:depth].tolist()) == prefix}
            grown += [(score + float(log_p[child[-1]]), child) for child in following]
        prefixes = sorted(grown, reverse=True)[:beam]
    return [(codes.tolist().index(list(code)), score) for score, code in prefixes]


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_a_narrow_beam_equals_a_plain_python_beam(beam: int):
    codes = catalogue(30, seed=1)
    recommender, (source, mask) = recommender_of(codes), histories()
    recommender.token_table.weight.data *= 3  # peaked: a narrow beam loses items that the exact ranking has
    found = beam_search(recommender, PrefixTree(codes), source, mask, beam)
    for user in range(USERS):
        expected = plain_beam(recommender, codes, source[user : user + 1], mask[user : user + 1], beam)
        assert found.items[user].tolist() == [item for item, _ in expected]
        assert found.scores[user].tolist() == pytest.approx([score for _, score in expected], abs=1e-4)


def with_tables(recommender: Recommender, tables: list[Tensor] | Tensor) -> InferenceRecommender:
    """A network whose logits of a code depend on its position alone."""
    network = InferenceRecommender(recommender)
    network.position_logits = lambda hidden, p: tables[p].expand(*hidden.shape[:-1], -1)  # type: ignore[method-assign]
    return network


def test_beams_rank_by_a_mock_scorer_whose_probabilities_are_known():
    # log-probability of a code depends on its position alone, so an identifier's score is a sum read off a table.
    table = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]]).log()
    network = with_tables(small_recommender(levels=2), table)
    codes = np.array([[3, 1], [0, 0], [2, 0], [3, 0], [1, 2]])
    (found,) = beam_searches(network, PrefixTree(codes), *histories(), 5, [None])
    assert found.items.tolist() == [[3, 2, 1, 0, 4]] * USERS
    expected = torch.tensor([0.28, 0.21, 0.07, 0.04, 0.02]).log()
    torch.testing.assert_close(found.scores, expected.expand(USERS, -1))
    (narrow,) = beam_searches(network, PrefixTree(codes), *histories(), 1, [None])
    assert narrow.items.tolist() == [[3]] * USERS


def mock_beam(codes: np.ndarray, tables: list[Tensor], permitted: np.ndarray, beam: int) -> list[tuple[int, float]]:
    """Beam search over prefixes of permitted items, where a code's log-probability depends on its position alone."""
    prefixes: dict[tuple, float] = {(): 0.0}
    for depth, table in enumerate(tables):
        grown = {}
        for code in codes[permitted].tolist():
            prefix, child = tuple(code[:depth]), tuple(code[: depth + 1])
            if prefix in prefixes:
                grown[child] = prefixes[prefix] + float(table[child[-1]])
        prefixes = dict(sorted(grown.items(), key=lambda entry: -entry[1])[:beam])
    return [(codes.tolist().index(list(code)), score) for code, score in prefixes.items()]


@few
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 45), st.booleans(), st.booleans())
def test_any_beam_equals_brute_force_on_a_mock_model(
    seed: int, items: int, beam: int, with_allow: bool, with_deny: bool
):
    generator, codes = np.random.default_rng(seed), catalogue(items, seed)
    recommender, tree = recommender_of(codes, seed), PrefixTree(codes)
    tables = [torch.as_tensor(generator.normal(size=size)).log_softmax(-1) for size in recommender.config.code_sizes]
    allowed = generator.random(items) < 0.6 if with_allow else np.ones(items, bool)
    denied = generator.integers(-1, items, (USERS, 8)) if with_deny else np.full((USERS, 0), -1)
    restriction = Restriction(
        tree, torch.as_tensor(allowed) if with_allow else None, torch.as_tensor(denied) if with_deny else None
    )
    (found,) = beam_searches(with_tables(recommender, tables), tree, *histories(seed), beam, [restriction])
    for user in range(USERS):
        permitted = allowed & ~np.isin(np.arange(items), denied[user])
        expected = mock_beam(codes, tables, permitted, beam)
        assert found.items[user, : len(expected)].tolist() == [item for item, _ in expected]
        assert found.scores[user, : len(expected)].tolist() == pytest.approx([score for _, score in expected], abs=1e-4)
        assert (found.items[user, len(expected) :] == -1).all()


@few
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_beams_are_distinct_existing_items_in_falling_order_at_any_width(seed: int, beam: int):
    codes = catalogue(25, seed)
    found = beam_search(recommender_of(codes, seed), PrefixTree(codes), *histories(seed), beam)
    assert found.items.shape == (USERS, beam)
    for row in found.items.tolist():
        assert len(set(row)) == beam
        assert set(row) <= set(range(25))
    assert (found.scores.diff(dim=1) <= 0).all()
    exact = exact_scores(recommender_of(codes, seed), torch.as_tensor(codes), *histories(seed))
    torch.testing.assert_close(found.scores, exact.gather(1, found.items), atol=1e-4, rtol=1e-4)


@few
@given(st.integers(0, 10_000), st.integers(0, 12), st.booleans(), st.booleans())
def test_allow_and_deny_lists_equal_filtered_exact_scores(seed: int, width: int, with_allow: bool, with_deny: bool):
    items, generator = 20, np.random.default_rng(seed)
    codes = catalogue(items, seed)
    recommender, inputs, tree = recommender_of(codes, seed), histories(seed), PrefixTree(codes)
    allowed = torch.as_tensor(generator.random(items) < 0.6) if with_allow else None
    denied = torch.as_tensor(generator.integers(-1, items, (USERS, width))) if with_deny else None  # repeats, padding
    permitted = torch.ones(USERS, items, dtype=torch.bool)
    if allowed is not None:
        permitted &= allowed
    if denied is not None:
        for row, user in zip(permitted, denied, strict=True):
            row[user[user >= 0]] = False
    found = beam_search(recommender, tree, *inputs, beam=items, restriction=Restriction(tree, allowed, denied))
    assert_best(found, exact_scores(recommender, torch.as_tensor(codes), *inputs), permitted, beam=items)


@few
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 12), st.booleans())
def test_a_joint_search_returns_what_each_search_returns_alone(seed: int, items: int, beam: int, causal: bool):
    generator, codes = np.random.default_rng(seed), catalogue(items, seed)
    recommender, inputs, tree = recommender_of(codes, seed, causal=causal), histories(seed), PrefixTree(codes)
    denied = torch.as_tensor(generator.integers(-1, items, (USERS, 8)))
    restrictions = [
        None,
        Restriction(tree, denied=denied),
        Restriction(tree, torch.as_tensor(generator.random(items) < 0.4), denied),
        Restriction(tree, torch.zeros(items, dtype=torch.bool)),
    ]
    found = beam_searches(InferenceRecommender(recommender), tree, *inputs, beam, restrictions)
    for restriction, one in zip(restrictions, found, strict=True):
        alone = beam_search(recommender, tree, *inputs, beam, restriction)
        for row in range(USERS):
            exists, also = alone.items[row] >= 0, one.items[row] >= 0
            assert one.items[row][also].tolist() == alone.items[row][exists].tolist()
            torch.testing.assert_close(one.scores[row][also], alone.scores[row][exists])


def test_a_prefix_that_two_searches_follow_is_decoded_once(monkeypatch: pytest.MonkeyPatch):
    codes = catalogue(30, seed=1)
    recommender, tree = recommender_of(codes), PrefixTree(codes)
    widths: list[int] = []
    step = DecoderCache.step
    monkeypatch.setattr(DecoderCache, "step", lambda self, hidden: widths.append(hidden.shape[1]) or step(self, hidden))
    nothing = Restriction(tree, denied=torch.full((USERS, 1), -1))
    beam_searches(InferenceRecommender(recommender), tree, *histories(), 4, [None, nothing])
    assert widths == [1, 4, 4]


@few
@given(st.integers(0, 10_000), st.integers(1, 30), st.floats(-9.0, 0.0))
def test_a_search_with_a_bound_finds_what_lies_above_it_beside_one_without(seed: int, items: int, bound: float):
    codes = catalogue(items, seed)
    recommender, inputs, tree = recommender_of(codes, seed), histories(seed), PrefixTree(codes)
    free, bounded = beam_searches(
        InferenceRecommender(recommender), tree, *inputs, items, [None, None], above=[float("-inf"), bound]
    )
    alone = beam_search(recommender, tree, *inputs, items)
    torch.testing.assert_close(free.scores, alone.scores)
    for row in range(USERS):
        assert (
            bounded.items[row][bounded.items[row] >= 0].tolist() == free.items[row][free.scores[row] > bound].tolist()
        )


def test_a_prefix_below_the_bound_is_not_decoded(monkeypatch: pytest.MonkeyPatch):
    codes = catalogue(30, seed=1)
    recommender, tree = recommender_of(codes), PrefixTree(codes)
    widths: list[int] = []
    step = DecoderCache.step
    monkeypatch.setattr(DecoderCache, "step", lambda self, hidden: widths.append(hidden.shape[1]) or step(self, hidden))
    beam_searches(
        InferenceRecommender(recommender), tree, *histories(), [1, 30], [None, None], above=[float("-inf"), -1e-6]
    )
    assert widths == [1, 1, 1]


def test_a_narrow_beam_wastes_no_width_on_prefixes_without_a_permitted_item():
    codes = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [2, 0], [2, 1]])
    recommender, tree = small_recommender(levels=2), PrefixTree(codes)
    for only in range(len(codes)):
        allowed = torch.zeros(len(codes), dtype=torch.bool)
        allowed[only] = True
        found = beam_search(recommender, tree, *histories(), beam=1, restriction=Restriction(tree, allowed))
        assert found.items.tolist() == [[only]] * USERS
        others = torch.tensor([[item for item in range(len(codes)) if item != only]] * USERS)
        found = beam_search(recommender, tree, *histories(), beam=1, restriction=Restriction(tree, denied=others))
        assert found.items.tolist() == [[only]] * USERS


def test_a_user_with_everything_denied_gets_nothing_and_the_others_are_untouched():
    codes = catalogue(8, seed=0)
    recommender, tree = recommender_of(codes), PrefixTree(codes)
    denied = torch.full((USERS, 16), -1)
    denied[1] = torch.arange(8).repeat(2)
    found = beam_search(recommender, tree, *histories(), beam=4, restriction=Restriction(tree, denied=denied))
    free = beam_search(recommender, tree, *histories(), beam=4)
    assert found.items[1].tolist() == [-1] * 4
    assert (found.scores[1] == float("-inf")).all()
    assert torch.equal(found.items[[0, 2]], free.items[[0, 2]])


def test_nothing_allowed_returns_nothing():
    codes = catalogue(8, seed=0)
    tree = PrefixTree(codes)
    restriction = Restriction(tree, torch.zeros(8, dtype=torch.bool))
    found = beam_search(recommender_of(codes), tree, *histories(), beam=3, restriction=restriction)
    assert (found.items == -1).all()


@pytest.mark.parametrize("items", [1, 2, 5])
def test_a_catalogue_smaller_than_the_beam_comes_back_whole_and_once(items: int):
    codes = catalogue(items, seed=3)
    found = beam_search(recommender_of(codes), PrefixTree(codes), *histories(), beam=30)
    for row, scores in zip(found.items, found.scores, strict=True):
        assert sorted(row[row >= 0].tolist()) == list(range(items))
        assert (scores[row < 0] == float("-inf")).all()


def test_a_hundred_items_of_one_semantic_id_among_others_equal_the_exact_ranking():
    codes = disambiguate(np.array([[1, 2]] * 100 + [[1, 3], [0, 2], [3, 0], [3, 3]]), np.zeros(104)).codes
    recommender, tree = recommender_of(codes), PrefixTree(codes)
    found = beam_search(recommender, tree, *histories(), beam=104)
    assert_best(found, exact_scores(recommender, torch.as_tensor(codes), *histories()), everything.expand(-1, 104), 104)
    narrow = beam_search(recommender, tree, *histories(), beam=7)
    for row in narrow.items.tolist():
        assert len(set(row)) == 7
        assert min(row) >= 0


def test_colliding_items_are_told_apart_by_disambiguation():
    codes = disambiguate(np.array([[1, 2], [1, 2], [1, 2], [3, 0]]), np.array([1, 3, 2, 0])).codes
    found = beam_search(recommender_of(codes), PrefixTree(codes), *histories(), beam=4)
    assert sorted(found.items[0].tolist()) == [0, 1, 2, 3]
    exact = exact_scores(recommender_of(codes), torch.as_tensor(codes), *histories())
    torch.testing.assert_close(found.scores, exact.gather(1, found.items), atol=1e-4, rtol=1e-4)
