"""Properties that must hold for any input: of prepared sequences, the split, identifiers, and gates."""

from __future__ import annotations

import copy
import math
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from support.gate_figures import PARAMS as LIMITS
from support.small import plain_tokenizer
from unigrec.base.errors import UnigrecError
from unigrec.config.schema import PrepareParams
from unigrec.core.decisions.gates import Decision, decide
from unigrec.core.evaluation.protocol import Protocol
from unigrec.core.identifiers.collisions import collision_rate, disambiguate, last_level_distances, reassign
from unigrec.core.sequences import Sequences
from unigrec.data.prepare import Prepared, prepare_tables

bounded = settings(max_examples=40, deadline=None, derandomize=True)

Row = tuple[str, str, int]
logs = st.lists(
    st.tuples(st.sampled_from("abcdefg"), st.sampled_from("uvwxyz"), st.integers(0, 30)), min_size=8, max_size=80
)


def prepared_of(rows: list[Row], k: int) -> Prepared:
    users, item_ids, times = zip(*rows, strict=True)
    interactions = pa.table({"user_id": users, "item_id": item_ids, "timestamp": pa.array(times, pa.int64())})
    items = pa.table({"item_id": list("zyxwvu"), "title": list("ZYXWVU")})
    params = PrepareParams(k_core=k, ties="given", max_user_interactions=0, min_users_after=1, min_items_after=1)
    try:
        return prepare_tables(interactions, items, params)
    except UnigrecError:  # too little is left; see tests/data/test_prepare.py
        assume(False)
        raise


def rows_of(prepared: Prepared) -> list[Row]:
    """The prepared interactions with their original ids, in order."""
    items, times, offsets = (prepared.sequences[name] for name in ("items", "timestamps", "offsets"))
    users = np.repeat(prepared.users["user_id"].to_pylist(), np.diff(offsets)).tolist()
    ids = prepared.catalogue["item_id"].to_pylist()
    return [(user, ids[item], int(time)) for user, item, time in zip(users, items, times, strict=True)]


def sequences_of(prepared: Prepared) -> Sequences:
    arrays = prepared.sequences
    return Sequences(arrays["items"].astype(np.int64), arrays["offsets"], prepared.catalogue.num_rows)


# --- prepare --------------------------------------------------------------------------------------------------------


@bounded
@given(rows=logs, k=st.integers(1, 4))
def test_the_k_core_is_a_fixed_point(rows, k):
    once = prepared_of(rows, k)
    again = prepared_of(rows_of(once), k)
    assert again.stats["k_core_rounds"] == []
    assert again.stats["duplicates_removed"] == 0
    assert {name: array.tolist() for name, array in again.sequences.items()} == {
        name: array.tolist() for name, array in once.sequences.items()
    }
    assert again.catalogue.equals(once.catalogue)
    assert again.users.equals(once.users)


@bounded
@given(rows=logs, k=st.integers(1, 4))
def test_indices_are_dense_and_every_interaction_is_accounted_for(rows, k):
    prepared = prepared_of(rows, k)
    items, offsets = prepared.sequences["items"], prepared.sequences["offsets"]
    stats = prepared.stats
    assert sorted(set(items.tolist())) == list(range(prepared.catalogue.num_rows))
    assert prepared.users["user_index"].to_pylist() == list(range(len(offsets) - 1))
    assert offsets[0] == 0
    assert offsets[-1] == len(items) == stats["after"]["interactions"]
    assert np.diff(offsets).min() >= k
    assert np.bincount(items).min() >= k
    removed = stats["duplicates_removed"] + sum(stats["k_core_rounds"])
    assert stats["before"]["interactions"] - removed == stats["after"]["interactions"]
    assert not Counter(rows_of(prepared)) - Counter(rows)  # no row is invented


@bounded
@given(rows=logs, k=st.integers(1, 3), shuffle=st.randoms(use_true_random=False))
def test_the_order_of_the_rows_matters_among_equal_times_alone(rows, k, shuffle):
    moments = {(user, time): item for user, item, time in rows}  # one interaction per user and time
    rows = [(user, item, time) for (user, time), item in moments.items()]
    shuffled = list(rows)
    shuffle.shuffle(shuffled)
    assert rows_of(prepared_of(shuffled, k)) == rows_of(prepared_of(rows, k))


# --- the split ------------------------------------------------------------------------------------------------------


@bounded
@given(rows=logs, k=st.integers(1, 3), history=st.integers(1, 40))
def test_nothing_that_trains_is_later_than_what_is_held_out(rows, k, history):
    prepared = prepared_of(rows, k)
    sequences, times = sequences_of(prepared), prepared.sequences["timestamps"]
    users = sequences.evaluation_users()
    assume(len(users))
    ends = sequences.offsets[users + 1]
    test, validation = (sequences.held_out(users, split, history) for split in ("test", "validation"))
    assert test.targets.tolist() == sequences.items[ends - 1].tolist()  # the last item of every user is the test item
    assert validation.targets.tolist() == sequences.items[ends - 2].tolist()
    for user, end in zip(users.tolist(), ends.tolist(), strict=True):
        training = times[sequences.offsets[user] : sequences.train_ends[user]]
        assert training.max() <= times[end - 2] <= times[end - 1]
    for pieces in (sequences.segments(history), sequences.window_segments(history)):
        held = np.flatnonzero(~sequences.is_training())
        for start, last, _ in pieces.tolist():
            assert not ((held >= start) & (held <= last)).any()
    assert sequences.train_counts().tolist() == prepared.catalogue["train_count"].to_pylist()


# --- identifiers ----------------------------------------------------------------------------------------------------


@bounded
@given(seed=st.integers(0, 10**6), items=st.integers(1, 40), levels=st.integers(1, 3), size=st.integers(1, 4))
def test_disambiguation_adds_a_code_and_changes_none_whatever_the_order_of_the_items(seed, items, levels, size):
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, size, (items, levels))
    popularity = generator.permutation(items)  # all different, so that ties cannot depend on the order of items
    resolved = disambiguate(codes, popularity)
    assert collision_rate(resolved.codes) == 0.0
    assert np.array_equal(resolved.codes[:, :-1], codes)
    assert resolved.disambiguation == max(Counter(map(tuple, codes.tolist())).values())
    assert resolved.codes[:, -1].max() < resolved.disambiguation
    order = generator.permutation(items)
    assert np.array_equal(disambiguate(codes[order], popularity[order]).codes, resolved.codes[order])
    assert np.array_equal(disambiguate(codes, popularity).codes, resolved.codes)


@bounded
@given(seed=st.integers(0, 10**6), items=st.integers(1, 20), levels=st.integers(1, 3))
def test_reassignment_changes_the_last_level_at_most_and_counts_what_it_costs(seed, items, levels):
    generator = torch.Generator().manual_seed(seed)
    size = 6
    tokenizer = plain_tokenizer(torch.randn(levels, size, 3, generator=generator))
    embeddings = torch.randn(items, 3, generator=generator)
    codes = tokenizer.quantize_hard(embeddings).codes.numpy()
    assume(max(Counter(map(tuple, codes[:, :-1].tolist())).values()) <= size)
    resolved = reassign(tokenizer, embeddings, codes)
    assert collision_rate(resolved.codes) == 0.0
    assert np.array_equal(resolved.codes[:, :-1], codes[:, :-1])
    assert resolved.codes.min() >= 0
    assert resolved.codes.max() < size
    with torch.no_grad():
        cost = last_level_distances(tokenizer, embeddings, codes[:, :-1])
    rows = np.arange(items)
    paid = (cost[rows, resolved.codes[:, -1]] - cost[rows, codes[:, -1]]).sum() / items
    np.testing.assert_allclose(resolved.extra_distance, paid, atol=1e-5)
    again = reassign(tokenizer, embeddings, codes)
    assert np.array_equal(again.codes, resolved.codes)
    settled = reassign(tokenizer, embeddings, resolved.codes)  # without collisions, nothing may change
    assert np.array_equal(settled.codes, resolved.codes)
    assert settled.extra_distance == 0.0


# --- gates ----------------------------------------------------------------------------------------------------------

MODELS = ("shipped", "popularity", "cooccurrence", "own_items", "neighbours", "teacher")
shares = st.floats(0.0, 1.0)
UNCERTAIN = 0.05  # half-width of the intervals
figures = st.fixed_dictionaries(
    {
        **{
            (model, protocol, name): shares
            for model in MODELS
            for protocol in Protocol
            for name in ("recall_at_10", "ndcg_at_10")
        },
        "collision_rate": shares,
        "codebook_utilisation": st.lists(shares, min_size=1, max_size=3),
    }
)
RAISED = tuple(("shipped", protocol, name) for protocol in Protocol for name in ("recall_at_10", "ndcg_at_10"))
LOWERED = *((model, protocol, "ndcg_at_10") for model in MODELS[1:] for protocol in Protocol), "collision_rate"


def intervals(found: dict[Any, Any]) -> dict[str, dict[str, Any]]:
    """Of shipped less teacher, as if each were measured with the same uncertainty."""
    bounds = {}
    for protocol in Protocol:
        difference = found["shipped", protocol, "ndcg_at_10"] - found["teacher", protocol, "ndcg_at_10"]
        bounds[protocol] = {"teacher": {"low": difference - UNCERTAIN, "high": difference + UNCERTAIN}}
    return bounds


def decision_on(found: dict[Any, Any], against: dict[str, dict[str, Any]] | None = None) -> Decision:
    metrics: dict = {}
    for key, value in found.items():
        if isinstance(key, tuple):
            model, protocol, name = key
            metrics.setdefault(model, {}).setdefault(protocol, {})[name] = value
    health = {key: value for key, value in found.items() if isinstance(key, str)}
    return decide(metrics, intervals(found) if against is None else against, health, LIMITS)


@cache
def good() -> dict[Any, Any]:
    found: dict[Any, Any] = {
        (model, protocol, name): 0.1
        for model in MODELS
        for protocol in Protocol
        for name in ("recall_at_10", "ndcg_at_10")
    }
    found |= {("shipped", protocol, "ndcg_at_10"): 0.2 for protocol in Protocol}
    found |= {"collision_rate": 0.0, "codebook_utilisation": [1.0, 1.0]}
    assert decision_on(found).passed
    return found


def passed_by_name(decision: Decision) -> dict[str, bool]:
    return {gate.name: gate.passed for gate in decision.gates if not gate.informational}


@bounded
@given(found=figures, key=st.sampled_from([*RAISED, *LOWERED, "codebook_utilisation"]), other=shares)
def test_a_better_figure_never_turns_a_pass_into_a_refusal(found, key, other):
    better = copy.deepcopy(found)
    if key == "codebook_utilisation":
        better[key] = [max(value, other) for value in found[key]]
    else:
        better[key] = (max if key in RAISED else min)(found[key], other)
    before, after = passed_by_name(decision_on(found)), passed_by_name(decision_on(better))
    assert all(after[name] for name, passed in before.items() if passed)


@bounded
@given(
    key=st.sampled_from([*RAISED, *LOWERED, "codebook_utilisation"]),
    broken=st.sampled_from([math.nan, math.inf, -math.inf, None, "0.5", True, [], {}]),
)
def test_what_is_no_finite_number_never_passes(key, broken):
    value = [1.0, broken] if key == "codebook_utilisation" else broken
    assert not decision_on({**good(), key: value}, intervals(good())).passed


@bounded
@given(
    protocol=st.sampled_from(Protocol),
    bound=st.sampled_from(["low", "high"]),
    broken=st.sampled_from([math.nan, math.inf, -math.inf, None, "0.5", True, [], {}]),
)
def test_an_interval_without_a_finite_bound_never_passes(protocol, bound, broken):
    against = intervals(good())
    against[protocol]["teacher"][bound] = broken
    assert not decision_on(good(), against).passed


@bounded
@given(found=figures)
def test_a_decision_passes_when_each_gate_does_and_gives_a_reason_for_each(found):
    decision = decision_on(found)
    assert decision.passed == all(passed_by_name(decision).values())
    assert all(gate.reason for gate in decision.gates)
