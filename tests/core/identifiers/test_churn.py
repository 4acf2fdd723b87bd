"""How many identifiers changed, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from unigrec.core.identifiers.churn import churn, churn_against


def test_churn_is_the_share_of_changed_codes_per_level():
    before, after = np.array([[0, 1], [2, 3], [4, 5], [6, 7]]), np.array([[0, 1], [2, 0], [4, 0], [0, 7]])
    assert churn(before, after) == [0.25, 0.5]
    assert churn(before, before) == [0.0, 0.0]


def test_churn_against_an_earlier_catalogue():
    earlier = np.array([[1, 2], [3, 4], [-1, -1], [5, 6]])
    now = np.array([[1, 2], [3, 9], [0, 0], [7, 8]])
    found = churn_against(earlier, now)
    assert found == (3, pytest.approx(2 / 3), pytest.approx([1 / 3, 2 / 3]))
    assert churn_against(earlier, np.column_stack([now, now[:, 0]])) == (3, 1.0, None)
    assert churn_against(np.full((2, 2), -1), now[:2]) == (0, None, None)
