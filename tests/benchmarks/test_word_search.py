"""The cases of the benchmark on search, by hand."""

from __future__ import annotations

from benchmarks.word_search.cases import Cases


def test_recall_is_the_share_of_lists_that_hold_the_wanted_item():
    cases = Cases([[1], [1]], [5, 7], ["x", "y"], [None, None])
    assert cases.recall([[1, 5], [2]]) == 0.5
    assert cases.recall([[*range(10, 20), 5], [7]]) == 0.5
