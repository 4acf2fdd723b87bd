"""The generated shop: the same bytes from the same seed, and the structure that it promises a model."""

from __future__ import annotations

import numpy as np
import pytest

from unigrec.config.schema import IngestParams, PrepareParams, SampleParams
from unigrec.data.prepare import Prepared, prepare_tables
from unigrec.data.sources.load import load_source
from unigrec.data.sources.sample import generate_sample
from unigrec.data.sources.sample_words import LEAVES

DEFAULT = SampleParams(users=2000, items=800, interactions=20_000)
CORE = PrepareParams(k_core=5, ties="given", max_user_interactions=0, min_users_after=1, min_items_after=1)


@pytest.fixture(scope="module")
def tables():
    return generate_sample(DEFAULT, seed=2026)


@pytest.fixture(scope="module")
def prepared(tables) -> Prepared:
    return prepare_tables(*tables, CORE)


def histories(prepared: Prepared) -> list[np.ndarray]:
    return np.split(prepared.sequences["items"], prepared.sequences["offsets"][1:-1])


def hit_at_10(prepared: Prepared, scores) -> float:
    """Recall@10 on the last item of each user; `scores(history)` gives one score per item, ties count against."""
    hits = []
    for sequence in histories(prepared):
        score = scores(sequence[:-1])
        hits.append(np.count_nonzero(score >= score[sequence[-1]]) <= 10)
    return float(np.mean(hits))


def test_same_seed_same_tables_other_seed_others(tables):
    again = generate_sample(DEFAULT, seed=2026)
    assert all(one.equals(other) for one, other in zip(tables, again, strict=True))
    assert not tables[0].equals(generate_sample(DEFAULT, seed=2027)[0])


def test_sizes_are_those_asked_for_and_survive_the_core(tables, prepared):
    interactions, items = tables
    assert (interactions.num_rows, items.num_rows) == (20_000, 800)
    after = prepared.stats["after"]
    assert after["users"] >= 1980
    assert after["items"] >= 790
    assert after["interactions"] >= 19_900


def test_a_log_is_ordered_in_time_and_each_user_has_times_of_their_own(tables, prepared):
    times = tables[0]["timestamp"].to_numpy()
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 1_672_531_200
    assert times[-1] < 1_735_689_600  # before 2025: past at any time somebody runs this
    assert prepared.stats["adjacent_tie_share"] == 0.0


def test_few_items_are_met_again(prepared):
    met = sum(len(sequence) - len(np.unique(sequence)) for sequence in histories(prepared))
    assert met < 0.01 * prepared.stats["after"]["interactions"]


def test_sequence_matters_and_popularity_does_not_dominate(prepared):
    n = len(prepared.catalogue)
    popularity = prepared.catalogue["train_count"].to_numpy().astype(float)
    follows = np.zeros((n, n))
    for sequence in histories(prepared):
        np.add.at(follows, (sequence[:-3], sequence[1:-2]), 1.0)
    by_popularity = hit_at_10(prepared, lambda history: popularity)
    by_last_item = hit_at_10(prepared, lambda history: follows[history[-1]] + 1e-6 * popularity)
    backwards = hit_at_10(prepared, lambda history: follows[:, history[-1]] + 1e-6 * popularity)
    assert by_popularity < 0.06
    assert by_last_item > 5 * by_popularity
    assert by_last_item > 2 * backwards


def test_text_tells_what_is_bought_together(prepared):
    words = [set(title.replace(",", "").split()) for title in prepared.catalogue["title"].to_pylist()]
    pairs = np.concatenate([np.column_stack([sequence[:-1], sequence[1:]]) for sequence in histories(prepared)])
    strangers = np.random.default_rng(0).permutation(pairs[:, 1])
    bought_together = np.mean([len(words[a] & words[b]) for a, b in pairs])
    by_chance = np.mean([len(words[a] & words[b]) for a, b in zip(pairs[:, 0], strangers, strict=True)])
    assert bought_together > 1.5 * by_chance


def test_taste_drifts_but_lasts(prepared):
    departments = np.array([path.split(" > ")[0] for path in prepared.catalogue["categories"].to_pylist()])
    long = [departments[sequence] for sequence in histories(prepared) if len(sequence) >= 10]
    near = np.mean([np.mean(sequence[1:] == sequence[:-1]) for sequence in long])
    far = np.mean([sequence[0] == sequence[-1] for sequence in long])
    assert 1 / 8 < far < near


def test_complements_lead_one_way():
    for index, leaf in enumerate(LEAVES):
        assert index not in leaf.complements
        assert all(index not in LEAVES[other].complements for other in leaf.complements)


def test_texts_are_whole_but_for_the_gaps_of_a_real_catalogue(tables):
    items = tables[1]
    assert items.column_names == ["item_id", "title", "brand", "categories", "description"]
    assert items["title"].null_count == items["categories"].null_count == 0
    assert 0 < items["brand"].null_count < 0.1 * items.num_rows
    assert 0 < items["description"].null_count < 0.2 * items.num_rows


@pytest.mark.parametrize(("users", "items", "interactions"), [(1, 10, 1), (3, 10, 2), (30, 10, 600), (500, 5000, 2500)])
def test_odd_sizes(users, items, interactions):
    table, catalogue = generate_sample(SampleParams(users=users, items=items, interactions=interactions), seed=1)
    assert (table.num_rows, catalogue.num_rows) == (interactions, items)
    assert len(set(catalogue["item_id"].to_pylist())) == items
    assert set(table["item_id"].to_pylist()) <= set(catalogue["item_id"].to_pylist())


def test_large_sizes_have_as_many_rows_as_were_asked_for():
    table, _ = generate_sample(SampleParams(users=30_000, items=5_000, interactions=300_000), seed=1)
    assert table.num_rows == 300_000


def test_as_a_source_it_says_how_it_was_made(tables):
    ingest = IngestParams(source="sample", path="anything", min_rating=0.0, sample=DEFAULT)
    source = load_source(ingest, seed=2026)
    assert source.interactions.equals(tables[0])
    assert source.provenance == {
        "source": "sample",
        "interactions": 20_000,
        "items": 800,
        "sample": {"seed": 2026, "users": 2000, "items": 800, "interactions": 20_000},
    }
