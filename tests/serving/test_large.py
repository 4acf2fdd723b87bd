"""A bundle that is served as a large one, whose tables stay in their files: where all is read, the same answers."""

from __future__ import annotations

import pytest
import torch

from support.bundles import bundles_are_large
from support.search_bundle import bundle_of
from support.tiny_model import ITEMS, item_ids
from unigrec.core.retrieval.fused import FusedRetriever
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.serving.bundle import Bundle
from unigrec.serving.schema import Diversity

HISTORIES = [["P3", "a,b", "P5", "квас", "P7"], ["P5"], ["P7", "gone", "P7"], ["gone"], []]


@pytest.fixture(scope="module")
def pair(pristine) -> tuple[Bundle, Bundle]:
    """The same bundle twice, the second one as a large one."""
    small = Bundle.load(pristine)
    with bundles_are_large():
        large = Bundle.load(pristine)
    fused = large.retrievers[RankBy.FUSED]
    assert isinstance(fused, FusedRetriever)
    assert fused.by_content is not None
    assert fused.neighbours.content.dtype == torch.float16
    return small, large


@pytest.mark.parametrize("by", RankBy)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": ITEMS, "exclude_history": True},
        {"allow": ["P4", "P5", "P6"], "deny": ["P5"]},
        {"filter": "item_index < 5", "exclude_history": True},
        {"boost": {"item_index < 6": 3.0}},
        {"diversity": Diversity(per="first code", at_most=1)},
        {"reasons": True},
    ],
    ids=str,
)
def test_lists(pair, by, options):
    small, large = (bundle.recommend(HISTORIES, **({"k": 4} | options), rank_by=by) for bundle in pair)
    for one, other in zip(small, large, strict=True):
        assert [item.item_id for item in one.items] == [item.item_id for item in other.items]
        assert [item.reason for item in one.items] == [item.reason for item in other.items]
        assert [item.score for item in one.items] == pytest.approx([item.score for item in other.items], abs=1e-4)


def test_searches(tmp_path):
    small = bundle_of(tmp_path)
    with bundles_are_large():
        large = Bundle.load(small.folder)
    for query in ("garden hose", "café laser", "ink, turquoise"):
        for options in ({}, {"history": ["P3"], "deny": ["P10"]}, {"filter": "item_index > 4"}):
            one, other = (bundle.search(query, k=4, **options) for bundle in (small, large))
            assert [item.item_id for item in one.items] == [item.item_id for item in other.items]
            assert [item.score for item in one.items] == pytest.approx([item.score for item in other.items], abs=1e-4)


@pytest.mark.parametrize("by", RankBy)
def test_other_answers(pair, by):
    small, large = pair
    item = item_ids()[3]
    assert small.similar(item, k=ITEMS) == large.similar(item, k=ITEMS)
    for basket in ([item], [item_ids()[5], item], item_ids()):
        assert small.complement(basket, k=ITEMS) == large.complement(basket, k=ITEMS)
    one, other = (bundle.audience(item, HISTORIES, rank_by=by) for bundle in pair)
    assert [user.row for user in one.users] == [user.row for user in other.users]
    assert [user.score for user in one.users] == pytest.approx([user.score for user in other.users], abs=1e-4)
