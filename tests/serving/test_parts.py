"""Parts of a bundle that do not fit together are refused, and any catalogue has titles."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from support.bundles import resign
from support.tiny_model import ITEMS
from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.serving.bundle import Bundle


@pytest.mark.parametrize(("columns", "shown"), [({"brand": "title"}, "title 3"), ({}, "")])
def test_without_titles_the_first_other_text_is_shown(folder, columns, shown):
    catalogue = files.read_table(folder / "catalogue.parquet")
    texts = {name: catalogue[source] for name, source in columns.items()}
    catalogue = catalogue.drop_columns("title")
    for name, values in texts.items():
        catalogue = catalogue.append_column(name, values)
    files.write_table(folder / "catalogue.parquet", catalogue)
    resign(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["serving"]["text_columns"] = ["categories", "brand"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    answer = Bundle.load(folder).recommend([["P3"]], k=ITEMS)[0]
    assert {item.item_id: item.title for item in answer.items}["P3"] == shown


def test_titles_that_are_all_missing_are_empty(folder):
    catalogue = files.read_table(folder / "catalogue.parquet")
    place = catalogue.column_names.index("title")
    files.write_table(folder / "catalogue.parquet", catalogue.set_column(place, "title", pa.nulls(ITEMS)))
    resign(folder)
    answer = Bundle.load(folder).recommend([["P3"]], k=ITEMS, reasons=True)[0]
    assert {item.title for item in answer.items} == {""}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda codes: codes[:-1], "identifiers for 11"),
        (lambda codes: codes[:, :-1], "expected codes int32"),
        (lambda codes: codes.astype(np.int64), "expected codes int32"),
        (lambda codes: codes + 100, "12 items have codes beyond"),
        (lambda codes: codes - 100, "12 items have codes beyond"),
        (lambda codes: np.repeat(codes[:1], len(codes), axis=0), "share a semantic ID"),
    ],
)
def test_identifiers_must_fit(folder, change, message):
    path = folder / "identifiers.safetensors"
    files.write_tensors(path, {"codes": change(files.read_arrays(path)["codes"])})
    resign(folder)
    with pytest.raises(UnigrecError, match=message):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("item_id", ["same"] * ITEMS, "'same' repeats"),
        ("item_id", [None] * ITEMS, f"item ids: {ITEMS} are null"),
        ("item_index", list(range(1, ITEMS + 1)), "does not count"),
        ("train_count", None, "columns are missing: train_count"),
        ("train_count", [None, *range(1, ITEMS)], "null or negative"),
        ("train_count", [-1] * ITEMS, "null or negative"),
    ],
)
def test_the_catalogue_must_fit(folder, column, values, message):
    path = folder / "catalogue.parquet"
    columns = files.read_table(path).to_pydict()
    if values is None:
        del columns[column]
    else:
        columns[column] = values
    files.write_table(path, pa.table(columns))
    resign(folder)
    with pytest.raises(UnigrecError, match=message):
        Bundle.load(folder)


def test_of_two_damaged_parts_the_same_one_is_named_each_time(folder):
    """Parts are read at the same time, and this one takes longer to be found out."""
    path = folder / "catalogue.parquet"
    catalogue = files.read_table(path)
    place = catalogue.column_names.index("item_id")
    files.write_table(path, catalogue.set_column(place, "item_id", pa.array(["same"] * ITEMS)))
    files.write_tensors(folder / "baskets.safetensors", {"starts": np.zeros(1)})
    resign(folder)
    with pytest.raises(UnigrecError, match="'same' repeats"):
        Bundle.load(folder)


def test_a_tokenizer_of_another_shape_is_refused(folder):
    shape = json.loads((folder / "tokenizer.json").read_text()) | {"levels": 3}
    files.write_tensors(folder / "tokenizer.safetensors", Tokenizer(**shape).state_dict())
    files.write_json(folder / "tokenizer.json", shape)
    resign(folder)
    with pytest.raises(UnigrecError, match="do not belong together"):
        Bundle.load(folder)
