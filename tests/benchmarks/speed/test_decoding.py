"""Tests of the parts that decode: both sides rank the same, requests have their form, sizes grow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from benchmarks.speed.harness import Options
from benchmarks.speed.served import item_id, serving_params, write_bundle

from benchmarks.speed import decoding, growth, latency, rules
from support.small import random_sequences
from unigrec.core.retrieval.retriever import CPU_BATCH
from unigrec.serving.bundle import Bundle


def test_both_sides_rank_the_same_items_for_every_user():
    found = decoding.compared(artifacts=None, quick=True)
    assert found["same"] > 0.99
    assert found["difference"] < 1e-4


def test_a_round_is_batches_of_an_evaluation_with_short_and_long_histories():
    work = decoding.Work(artifacts=None, quick=False)
    rounds = [work.users(number).reshape(decoding.BATCHES, CPU_BATCH) for number in range(decoding.ROUNDS)]
    everyone = np.sort(work.sequences.lengths[work.sequences.evaluation_users()])
    for users in rounds:
        lengths = work.sequences.lengths[users]
        assert (np.diff(lengths.ravel()) >= 0).all()  # each batch has similar lengths
        assert lengths.mean() == pytest.approx(everyone.mean(), rel=0.25)
    assert len(np.unique(rounds)) == np.size(rounds)  # different users in each round


@pytest.mark.parametrize(
    ("items", "denied", "complaint"),
    [([0, 9], -1, "not an item"), ([0, -1], -1, "not an item"), ([1, 1], -1, "twice"), ([0, 1], 1, "denied")],
)
def test_a_list_that_holds_what_it_must_not_is_found(items, denied, complaint):
    with pytest.raises(AssertionError, match=complaint):
        decoding.check(torch.tensor([items]), 9, torch.tensor([[denied]]))


@pytest.mark.slow
def test_a_bundle_of_the_benchmark_answers_every_form_of_request(tmp_path):
    bundle = Bundle.load(write_bundle(tmp_path, 60, serving_params(quick=True)))
    sequences = random_sequences(20, 60, 9)
    answers = {}
    for name, form in latency.FORMS.items():
        (request,) = latency.requests_of(sequences, 1, form)
        (answers[name],) = bundle.recommend(k=5, **request)
        assert len(latency.answered(bundle, 5, [request] * (latency.WARM_UP + 2))["cpu"]) == 2
    assert answers["with an id that the catalogue lacks"].unknown == 1
    assert answers["no history"].by_popularity
    assert item_id(0) not in {item.item_id for item in answers["one item denied"].items}


def test_the_same_users_are_ranked_at_every_size():
    small, large = (growth.Search(items, users=4, smallest=50, quick=True) for items in (50, 100))
    read: list[torch.Tensor] = []
    for search in (small, large):
        search.retriever.embed = lambda items, lengths, embed=search.retriever.embed: (
            read.append(torch.as_tensor(items)) or embed(items, lengths)
        )
        search.round(0)
    assert torch.equal(*read)
    assert read[0].max() < 50


def test_hardening_is_measured_step_by_step(tmp_path):
    growth.write_catalogue(str(tmp_path), 300, quick=True)
    found = growth.harden(str(tmp_path), quick=True)
    assert set(found) == {"colliding", "codes s", "disambiguate s", "reassign s", "health s"}


def test_every_rule_of_a_request_is_measured(tmp_path):
    found = rules.measure(growth.make_bundle(str(tmp_path), 400, quick=True), "fused", count=1)
    assert set(found["first"]) == set(rules.RULES)
    assert all(len(seconds) == 1 for seconds in found["seconds"].values())


@pytest.mark.slow
def test_every_row_of_evaluation_is_measured(tmp_path):
    (table,) = decoding.run(Options(tmp_path, quick=True))
    assert [row["what"] for row in table.rows] == [*decoding.ROWS] * 2
    assert all(row["CPU ms"] > 0 and row["peak GB"] > 0.1 for row in table.rows)
    assert [("CPU, times ours" in row) for row in table.rows] == [False, True, True] * 2


@pytest.mark.long
@pytest.mark.parametrize("part", [latency, growth])
def test_a_quick_run_of_a_part_gives_its_tables(part, tmp_path):
    tables = part.run(Options(tmp_path, quick=True))
    assert all(table.rows for table in tables)
