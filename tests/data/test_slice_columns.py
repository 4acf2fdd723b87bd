"""Values of the items' columns that the evaluation is sliced by."""

from __future__ import annotations

import pyarrow as pa
import pytest

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.base.paths import Artifacts
from unigrec.data.slice_columns import slice_values


@pytest.fixture
def artifacts(tmp_path) -> Artifacts:
    artifacts = Artifacts(tmp_path)
    texts = {"item_id": ["a", "b", "c"], "title": ["x", "y", None], "categories": ["A > B | C", " ", None]}
    files.write_table(artifacts.catalogue, pa.table(texts | {"train_count": [1, 2, 3]}))
    served = {"item_id": ["a", "b", "c"], "price": [1.0, None, 2.0], "in_stock": [True, False, None]}
    served |= {"tags": [["t", "u"], [], None], "sizes": [[1], [2], None]}
    files.write_table(artifacts.served_columns, pa.table(served))
    return artifacts


def test_texts_lists_and_flags_have_values(artifacts):
    assert slice_values(artifacts, ["categories", "tags", "in_stock"]) == {
        "categories": [{"A", "A>B", "C"}, set(), set()],
        "tags": [{"t", "u"}, set(), set()],
        "in_stock": [{"yes"}, {"no"}, set()],
    }


def test_without_served_columns_the_texts_can_be_named(artifacts):
    artifacts.served_columns.unlink()
    assert slice_values(artifacts, ["title"]) == {"title": [{"x"}, {"y"}, set()]}


def test_without_a_name_no_file_is_read(tmp_path):
    assert slice_values(Artifacts(tmp_path), []) == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("domain", "no column 'domain'; those that can be named are: title, categories, in_stock, tags. serve.columns"),
        ("train_count", "no column 'train_count'"),
        ("price", "column 'price' holds double, and slices are of texts, lists of texts, and yes or no: title, "),
        ("sizes", "column 'sizes' holds list<"),
    ],
)
def test_other_columns_are_refused(artifacts, name, message):
    with pytest.raises(UnigrecError, match=message):
        slice_values(artifacts, ["title", name])
