"""Queries made from the catalogue have words of their item, in its order."""

from __future__ import annotations

import numpy as np
import pytest

from unigrec.pipeline.queries import QueryKind, make_query

ITEM = {"title": "Canon MG22 laser printer, canon black", "brand": "Canon", "categories": "Office > Printers"}


@pytest.mark.parametrize("seed", range(5))
def test_words_of_the_title_keep_their_order(seed):
    words = ["canon", "mg22", "laser", "printer", "black"]
    three = make_query(QueryKind.TITLE, ITEM, np.random.default_rng(seed)).split()
    assert len(three) == 3
    assert three == sorted(set(three), key=words.index)
    assert 1 <= len(make_query(QueryKind.FEW_WORDS, ITEM, np.random.default_rng(seed)).split()) <= 2


def test_brand_and_kind_and_attributes():
    generator = np.random.default_rng(0)
    assert make_query(QueryKind.BRAND_AND_KIND, ITEM, generator) == "Canon Printers"
    without = {"title": "Canon printer", "brand": "Canon", "categories": None}
    assert make_query(QueryKind.BRAND_AND_KIND, without, generator) == "Canon printer"
    values = {make_query(QueryKind.ATTRIBUTE, ITEM, generator) for _ in range(20)}
    assert values == {"Canon", "Office > Printers"}


def test_an_item_without_the_columns_has_no_query():
    item = {"title": "a pen", "brand": None}
    generator = np.random.default_rng(0)
    found = {kind: make_query(kind, item, generator) for kind in QueryKind}
    assert found.pop(QueryKind.FEW_WORDS) in ("a", "pen", "a pen")
    assert set(found.values()) == {None}
