"""Search by words in a bundle with a fitted text encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support.bundles import resign
from support.search_bundle import DIMENSIONS, NAMES, bundle_of
from support.tiny_model import ITEMS
from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.embedding.encoder import load_encoder
from unigrec.serving.bundle import Bundle
from unigrec.serving.schema import SearchRequest
from unigrec.serving.search import QueryEncoder, with_history

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


def test_few_candidates_still_hold_the_best_of_both():
    by_history = torch.arange(100.0)

    def search(_, mask, k):
        scores = by_history if mask is None else by_history.masked_fill(~mask, float("-inf"))
        values, items = scores.topk(k)
        return type("Found", (), {"items": items[None], "scores": values[None]})

    scores = torch.zeros(100)
    scores[3] = 1000.0
    found = with_history(search, scores, 1.0, k=2, allowed=None, candidates=1)
    assert found.items.tolist() == [[3, 99]]


def test_a_query_without_a_known_word_is_an_error(bundle):
    with pytest.raises(UnigrecError, match="no text of the catalogue has a word of 'xyzzy'"):
        bundle.search("xyzzy")
    with pytest.raises(UnigrecError, match=r"a vector \(2,\); expected \(6,\)"):
        bundle.search(np.ones(2))
    with pytest.raises(UnigrecError, match="query"):
        SearchRequest.parse(query="x" * 1001)


def test_a_bundle_of_a_language_model_takes_a_vector(bundle, tmp_path):
    other = bundle_of(tmp_path)
    files.write_json(other.folder / "text_encoder/settings.json", {"encoder": "minilm"})
    resign(other.folder)
    other = Bundle.load(other.folder)
    with pytest.raises(UnigrecError, match="embedded by minilm, which a bundle does not hold"):
        other.search("garden hose")
    vector = QueryEncoder.load(bundle.folder / "text_encoder", DIMENSIONS).vector("garden hose").numpy()
    assert other.search(vector, k=3).items == bundle.search("garden hose", k=3).items


def test_a_bundle_without_its_parts_says_so(folder):
    bundle = Bundle.load(folder)
    with pytest.raises(UnigrecError, match=r"vocabulary\.json: no such file"):
        bundle.search("title")
    for name in ("dense.safetensors", "dense.json", "neighbours.safetensors", "fusion.json"):
        (folder / name).unlink()
    resign(folder)
    with pytest.raises(UnigrecError, match="search: this bundle, of an earlier version"):
        Bundle.load(folder).search("title")
