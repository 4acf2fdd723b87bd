"""The parts of the speed benchmark that decode: both sides rank alike, requests are what they say, sizes grow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from benchmarks.speed import decoding, growth, latency
from benchmarks.speed.harness import Options
from benchmarks.speed.served import item_id, serving_params, write_bundle

from small import random_sequences
from unigrec.bundle import Bundle


def test_both_sides_rank_the_same_items_for_every_user():
    found = decoding.measure(artifacts=None, quick=True)
    assert found["same"] > 0.99
    assert found["difference"] < 1e-4
    assert {len(timing["cpu"]) for timings in found["timings"].values() for timing in timings.values()} == {1}


@pytest.mark.parametrize(
    ("items", "denied", "complaint"),
    [([0, 9], -1, "no item"), ([0, -1], -1, "no item"), ([1, 1], -1, "twice"), ([0, 1], 1, "denied")],
)
def test_a_list_that_holds_what_it_must_not_is_found(items, denied, complaint):
    with pytest.raises(AssertionError, match=complaint):
        decoding.check(torch.tensor([items]), 9, torch.tensor([[denied]]))


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
    found = growth.decode([50, 100], quick=True)
    assert set(found["timings"]) == {"50", "100"}
    small, large = growth.histories(4, 50, seed=0), growth.histories(4, 50, seed=0)
    assert np.array_equal(small.items, large.items)
    assert small.items.max() < 50


def test_hardening_is_measured_step_by_step(tmp_path):
    growth.write_catalogue(str(tmp_path), 300, quick=True)
    found = growth.harden(str(tmp_path), quick=True)
    assert set(found) == {"colliding", "codes s", "disambiguate s", "reassign s", "health s"}


@pytest.mark.slow
@pytest.mark.parametrize("part", [decoding, latency, growth])
def test_a_quick_run_of_a_part_gives_its_tables(part, tmp_path):
    tables = part.run(Options(tmp_path, quick=True))
    assert all(table.rows for table in tables)
