"""What a registered version says about its input and output."""

from __future__ import annotations

from mlflow.types import DataType
from mlflow.types.schema import Array

from unigrec.registry.model_package import signature
from unigrec.serving.pyfunc_model import as_table
from unigrec.serving.schema import Answer, RecommendedItem, Request


def test_the_signature_describes_the_table_of_answers():
    item = RecommendedItem(item_id="a", title="A", score=-1.5)
    table = as_table([Answer(items=(item, item), unknown=1, by_popularity=True)])
    row = {
        "item_ids": ["a", "a"],
        "titles": ["A", "A"],
        "scores": [-1.5, -1.5],
        "reasons": ["", ""],
        "unknown": 1,
        "by_popularity": True,
    }
    assert table.to_dict("records") == [row]
    columns = {column.name: column.type for column in signature().outputs}
    text, number = Array(DataType.string), Array(DataType.double)
    assert columns == {
        **{"item_ids": text, "titles": text, "scores": number, "reasons": text},
        **{"unknown": DataType.long, "by_popularity": DataType.boolean},
    }
    assert list(columns) == list(table.columns)


def test_its_parameters_are_the_fields_of_a_request():
    found = {param.name: param.default for param in signature().params}
    asked = Request.parse(histories=[])
    assert found == {
        "k": asked.k,
        "allow": [],  # MLflow has no null for a list
        "deny": [],
        "exclude_history": asked.exclude_history,
        "rank_by": "",  # nor for a text
        "filter": "",
        "diversity": "",
        "new_share": "",
        "boost": [],
        "reasons": False,
    }
    assert asked.rank_by is None
    assert {"histories", *found} == set(Request.model_fields)
