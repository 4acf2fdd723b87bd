"""The reasons in a bundle's answers: items of the history, counts, kinds and words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support.bundles import resign
from support.tiny_model import item_ids
from unigrec.base.errors import UnigrecError
from unigrec.core.retrieval.baskets import Baskets
from unigrec.core.retrieval.fused import Weights
from unigrec.core.retrieval.neighbours import Neighbours, Pairs
from unigrec.serving.bundle import Bundle
from unigrec.serving.reasons import POPULAR, WHOLE, Reasons

TITLES = [
    "Laser printer Canon",
    "Ink cartridge for Canon",
    "Ink cartridge black",
    "Garden hose",
    "Laser printer small",
    "Rake",
]
CODES = np.array([[0, 0], [1, 0], [1, 1], [2, 0], [0, 1], [2, 1]])


class Nothing(torch.nn.Module):
    """A dense part that knows nothing: only the neighbours support an item."""

    history = 10

    def scores_of(self, items, lengths, wanted):
        return torch.zeros(len(items), len(wanted))


def reasons(by_day: bool, follows: float = 1.0) -> Reasons:
    """The ink follows the printer, and was bought with it nine times."""
    starts = torch.tensor([0, 1, 1, 1, 1, 1, 1])
    neighbours = Neighbours(Pairs(starts, torch.tensor([1]), torch.ones(1)), Pairs.none(6), torch.zeros(6, 2))
    baskets = Baskets(starts.numpy(), np.array([1]), np.array([9]), np.full(6, 9), total=99, by_day=by_day)
    weights = Weights(0.0, follows, 0.0)
    return Reasons(Nothing(), neighbours, weights, baskets=baskets, codes=CODES, names=list("abcdef"), titles=TITLES)


def test_a_reason_names_the_item_the_count_and_the_words():
    (reason,) = reasons(by_day=False).of([3, 0], [1])
    assert reason.text == "because you bought Laser printer Canon; 9 customers bought both (both: canon)"
    (because,) = reason.because
    assert (because.item_id, because.together, because.words, because.weight) == ("a", 9, ("canon",), 1.0)
    assert reason.kind == "cartridge ink"  # in both items of the code, and in no other
    assert "on one day 9 times" in reasons(by_day=True).of([3, 0], [1])[0].text


def test_what_no_single_item_supports_says_so():
    assert [reason.text for reason in reasons(True).of([0, 3], [2])] == [WHOLE]
    assert [reason.text for reason in reasons(True).of([], [2])] == [POPULAR]
    assert reasons(True).of([5], [5])[0].text == "because you bought it before"


def test_an_item_that_own_purchases_speak_against_is_not_recommended_because_of_them(monkeypatch):
    """All purchases of the item are one reason, whatever one of them adds; two of another item are two."""
    monkeypatch.setattr("unigrec.serving.reasons.support", lambda *_: torch.tensor([[0.3, 0.1, -17.6, 0.2]]))
    (reason,) = reasons(False).of([1, 0, 1, 0], [1])
    assert [(because.item_id, because.weight) for because in reason.because] == [("a", pytest.approx(0.2))]


def test_a_bundle_answers_with_reasons_where_they_are_asked_for(pristine):
    bundle = Bundle.load(pristine)
    history = ["P3", "P10", "gone"]
    asked, plain = (bundle.recommend([history, []], k=3, reasons=reasons) for reasons in (True, False))
    assert [item.score for item in asked[0].items] == [item.score for item in plain[0].items]
    assert all(item.reason is None for answer in plain for item in answer.items)
    assert [item.reason.text for item in asked[1].items] == [POPULAR] * 3
    named = {because.item_id for item in asked[0].items for because in item.reason.because}
    assert named <= {"P3", "P10"} <= set(item_ids())
    assert asked == bundle.recommend([history, []], k=3, reasons=True)


def test_a_bundle_without_a_dense_part_gives_none(folder):
    for name in ("dense.safetensors", "dense.json", "neighbours.safetensors", "fusion.json"):
        (folder / name).unlink()
    resign(folder)
    with pytest.raises(UnigrecError, match="reasons: this bundle, of an earlier version"):
        Bundle.load(folder).recommend([["P3"]], reasons=True)
