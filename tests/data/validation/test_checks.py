"""The expectations: each figure of drift has its bounds and its words."""

from __future__ import annotations

import pytest

from unigrec.config.schema import Bound, PreviousParams
from unigrec.data.drift import Drift
from unigrec.data.validation.checks import DRIFT_FIGURES


def test_every_figure_of_drift_is_bounded_and_a_bound_is_in_order():
    assert set(PreviousParams.model_fields) == set(DRIFT_FIGURES) <= set(Drift._fields)
    with pytest.raises(ValueError, match="must not be above stop"):
        Bound(warn=0.2, stop=0.1)
