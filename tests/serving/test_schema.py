"""What a request may hold, and what every face of the bundle calls it."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from pydantic import ValidationError

from unigrec.base.errors import UnigrecError
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.serving.bundle import Bundle
from unigrec.serving.schema import Answer, ComplementRequest, RecommendedItem, Request, SimilarRequest


@pytest.mark.parametrize(
    ("method", "asked"),
    [
        (Bundle.recommend, Request.parse(histories=[])),
        (Bundle.similar, SimilarRequest.parse(item="a")),
        (Bundle.complement, ComplementRequest.parse(basket=["a"])),
    ],
)
def test_a_request_has_the_parameters_of_its_method_with_their_defaults(method, asked):
    parameters = dict(inspect.signature(method).parameters)
    del parameters["self"]
    assert set(parameters) == set(type(asked).model_fields)
    for name, parameter in parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            assert getattr(asked, name) == parameter.default, name


def test_ids_are_text_whole_numbers_become_text_and_a_null_stays():
    asked = Request.parse(histories=[["a", 3, np.int64(4), None], ()], allow=[5], deny={"b"})
    assert asked.histories == (("a", "3", "4", None), ())
    assert (asked.allow, asked.deny) == ({"5"}, {"b"})


@pytest.mark.parametrize("by", ["fused", "generative", "dense"])
def test_a_way_to_rank_is_given_by_its_name_or_left_open(by: str):
    assert Request.parse(histories=[], rank_by=by).rank_by is RankBy(by)
    assert Request.parse(histories=[], rank_by=None).rank_by is None


def test_json_is_read_as_python_is():
    text = '{"histories": [["a", 3, null]], "k": 2, "deny": ["b"], "exclude_history": true, "rank_by": "dense"}'
    expected = Request(histories=[["a", 3, None]], k=2, deny=["b"], exclude_history=True, rank_by=RankBy.DENSE)
    assert Request.model_validate_json(text) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"histories": [["a", 1.5]]}, "histories.0.1: 1.5 is no item id"),
        ({"histories": [[True]]}, "histories.0.0: True is no item id"),
        ({"histories": [[["a"]]]}, r"histories.0.0: \['a'\] is no item id"),
        ({"histories": ["abc"]}, "histories.0: "),
        ({"histories": "abc"}, "histories: "),
        ({}, "histories: Field required"),
        ({"histories": [], "k": 0}, "k: .*greater than or equal to 1"),
        ({"histories": [], "k": "3"}, "k: "),
        ({"histories": [], "k": 3.0}, "k: "),
        ({"histories": [], "allow": "abc"}, "allow: "),
        ({"histories": [], "deny": [None]}, "deny.0: "),
        ({"histories": [], "exclude_history": "yes"}, "exclude_history: "),
        ({"histories": [], "rank_by": "best"}, "rank_by: Input should be 'fused', 'generative' or 'dense'"),
        ({"histories": [], "rank_by": ""}, "rank_by: Input should be 'fused', 'generative' or 'dense'"),
        ({"histories": [], "rank_by": ["dense"]}, "rank_by: "),
        ({"histories": [], "surprise": 1}, "surprise: "),
    ],
)
def test_what_is_no_request_is_refused_by_the_name_of_its_field(values, message):
    with pytest.raises(UnigrecError, match=f"^{message}"):
        Request.parse(**values)


def test_an_answer_cannot_be_changed_and_comes_back_from_json():
    answer = Answer(items=(RecommendedItem(item_id="a", title="A", score=-1.5),), unknown=1, by_popularity=False)
    with pytest.raises(ValidationError, match="frozen"):
        answer.unknown = 2
    assert Answer.model_validate_json(answer.model_dump_json()) == answer
    with pytest.raises(ValidationError, match="item_id"):
        RecommendedItem(item_id=3, title="A", score=-1.5)
