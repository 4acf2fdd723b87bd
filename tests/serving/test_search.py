"""Search by words in a bundle with a fitted text encoder."""

from __future__ import annotations

import numpy as np
import pytest

from support.bundles import resign
from support.search_bundle import DIMENSIONS, NAMES, TITLES, bundle_of
from support.tiny_model import ITEMS
from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.core.retrieval.search import SEARCH_WEIGHT
from unigrec.embedding.encoder import load_encoder
from unigrec.serving.bundle import Bundle
from unigrec.serving.schema import SearchRequest
from unigrec.serving.search import QueryEncoder

HISTORY = ["P3", "P10"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return bundle_of(tmp_path_factory.mktemp("search"))


def test_a_query_s_vector_is_that_of_the_catalogue_s_encoder(bundle):
    folder = bundle.folder / "text_encoder"
    ours, theirs = QueryEncoder.load(folder, DIMENSIONS), load_encoder(folder)
    for query in ("Laser PRINTER", "cafe\u0301 café hose hose", "ink nothing"):
        (expected,) = theirs.transform([query])
        assert np.allclose(ours.vector(query), expected / np.linalg.norm(expected), atol=1e-6)
    assert ours.vector("nothing") is None


def test_words_find_the_items_that_have_them(bundle):
    answer = bundle.search("garden hose, turquoise", k=4)
    assert {item.item_id for item in answer.items} == set(NAMES[8:])
    assert (answer.unknown_words, answer.unknown) == (("turquoise",), 0)
    assert {item.item_id for item in bundle.search("garden hose", k=4, deny=[NAMES[8]]).items} & {NAMES[8]} == set()
    assert [i.item_id for i in bundle.search("garden hose", k=9, filter="item_index = 2").items] == [NAMES[2]]


def test_the_own_text_of_an_item_ranks_it_first(bundle):
    found = [bundle.search(title, k=1).items[0].title for title in TITLES]
    assert found == TITLES


@pytest.mark.parametrize("by", list(RankBy))
def test_weight_zero_is_recommend(bundle, by, monkeypatch):
    monkeypatch.setattr(bundle, "ranks_by", by)
    (recommended,) = bundle.recommend([HISTORY], k=5)
    found = bundle.search("garden hose", history=[*HISTORY, "gone"], k=5, search_weight=0.0)
    assert [(i.item_id, i.score) for i in found.items] == [(i.item_id, i.score) for i in recommended.items]
    assert found.unknown == 1


@pytest.mark.parametrize("by", list(RankBy))
def test_with_a_history_the_scores_are_added(bundle, by, monkeypatch):
    monkeypatch.setattr(bundle, "ranks_by", by)
    (recommended,) = bundle.recommend([HISTORY], k=ITEMS)
    alone = {item.item_id: item.score for item in bundle.search("garden hose", k=ITEMS).items}
    total = {item.item_id: item.score + 0.3 * alone[item.item_id] for item in recommended.items}
    found = bundle.search("garden hose", history=HISTORY, k=4, search_weight=0.3)
    assert [item.item_id for item in found.items] == sorted(total, key=lambda name: -total[name])[:4]
    assert [item.score for item in found.items] == pytest.approx(sorted(total.values())[::-1][:4], abs=1e-4)
    fitted = bundle.search("garden hose", history=HISTORY, k=4)
    assert fitted == bundle.search("garden hose", history=HISTORY, k=4, search_weight=SEARCH_WEIGHT)


def test_a_query_without_a_known_word_is_an_error(bundle):
    with pytest.raises(UnigrecError, match="no text of the catalogue has a word of 'xyzzy'"):
        bundle.search("xyzzy")
    with pytest.raises(UnigrecError, match=r"a vector \(2,\); expected \(6,\)"):
        bundle.search("garden", vector=np.ones(2))
    with pytest.raises(UnigrecError, match="query"):
        SearchRequest.parse(query="x" * 1001)


def test_a_bundle_of_a_language_model_finds_words_and_takes_a_vector(bundle, tmp_path):
    other = bundle_of(tmp_path)
    files.write_json(other.folder / "text_encoder/settings.json", {"encoder": "minilm"})
    resign(other.folder)
    other = Bundle.load(other.folder)
    words = other.search("garden hose, turquoise", k=4)
    assert {item.item_id for item in words.items} == set(NAMES[8:])
    assert words.unknown_words == ("turquoise",)
    with pytest.raises(UnigrecError, match="no text of the catalogue has a word of 'xyzzy'"):
        other.search("xyzzy")
    vector = QueryEncoder.load(bundle.folder / "text_encoder", DIMENSIONS).vector("garden hose").numpy()
    assert other.search("garden hose", k=3, vector=vector).items == bundle.search("garden hose", k=3).items
    assert {item.item_id for item in other.search("xyzzy", k=2, vector=vector).items} <= set(NAMES[8:])


def test_warming_up_reads_everything_and_answers_stay(bundle, monkeypatch):
    expected = bundle.search("garden hose"), bundle.recommend([HISTORY], reasons=True)
    other = Bundle.load(bundle.folder)
    other.warm_up()
    monkeypatch.setattr(files, "read_tensors", None)
    monkeypatch.setattr(files, "read_table", None)
    assert (other.search("garden hose"), other.recommend([HISTORY], reasons=True)) == expected


def test_a_bundle_without_its_parts_says_so(folder):
    bundle = Bundle.load(folder)
    bundle.warm_up()
    with pytest.raises(UnigrecError, match=r"vocabulary\.json: no such file"):
        bundle.search("title")
    for name in ("dense.safetensors", "dense.json", "neighbours.safetensors", "fusion.json"):
        (folder / name).unlink()
    resign(folder)
    with pytest.raises(UnigrecError, match="search: this bundle, of an earlier version"):
        Bundle.load(folder).search("title")
