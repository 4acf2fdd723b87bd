"""Columns that keep their types on the way from a shop's files to the table that requests filter by."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest

from support.source_folder import folder_of
from unigrec.base.errors import UnigrecError
from unigrec.config.schema import IngestParams, SampleParams
from unigrec.data.prepare import Prepared
from unigrec.data.served_items import served_items
from unigrec.data.sources.load import load_source
from unigrec.data.sources.served import DATE, typed
from unigrec.data.sources.source import Source
from unigrec.data.sources.times import Place

SAMPLE = SampleParams(users=40, items=30, interactions=300)


def load(path, columns, **settings) -> Source:
    values = {"source": "folder", "path": str(path), "min_rating": 0.0, "sample": SAMPLE, **settings}
    return load_source(IngestParams(**values), 7, ("title",), dict.fromkeys(columns))


def test_a_folder_s_columns_keep_their_types(tmp_path):
    items = pa.table(
        {
            "item_id": ["a", "b"],
            "title": ["A", "B"],
            "price": pa.array([1.5, float("nan")], pa.float32()),
            "tags": [["x", "y"], None],
            "released": [datetime.date(2020, 1, 2), None],
            "in_stock": [True, False],
        }
    )
    names = ("price", "tags", "released", "in_stock")
    served = load(folder_of(tmp_path, items=items), names).served
    assert served is not None
    assert served.schema.types == [pa.string(), pa.float64(), pa.list_(pa.string()), DATE, pa.bool_()]
    assert served["price"].to_pylist() == [1.5, None]
    assert served["released"].to_pylist() == [datetime.datetime(2020, 1, 2), None]
    assert load(tmp_path, ()).served is None


@pytest.mark.parametrize(
    ("texts", "kind", "values"),
    [
        (["1", "+20", " -3 ", ""], pa.int64(), [1, 20, -3, None]),
        (["1", "2.5"], pa.float64(), [1.0, 2.5]),
        (["007", "12"], pa.string(), ["007", "12"]),  # a code keeps its zeros
        (["12345678901234567890"], pa.string(), ["12345678901234567890"]),
        (["True", "no", None], pa.bool_(), [True, False, None]),
        (["2020-01-02", "2021-12-31"], DATE, [datetime.datetime(2020, 1, 2), datetime.datetime(2021, 12, 31)]),
        (["2020-01-02", "later"], pa.string(), ["2020-01-02", "later"]),
        (["", None], pa.string(), [None, None]),
    ],
)
def test_texts_of_a_format_without_types(texts, kind, values):
    found = typed(pa.chunked_array([texts], pa.string()), Place("items.csv", "x"))
    assert (found.type, found.to_pylist()) == (kind, values)


@pytest.mark.parametrize("values", [["1.50", "2"], ["yes", None], ["2024-12-01", ""], [15, None], [True, False]])
def test_what_the_catalogue_has_as_text_stays_text(values):
    found = typed(pa.chunked_array([values]), Place("items.csv", "x"), pa.string())
    expected = [None if value in ("", None) else str(value).lower() for value in values]
    assert (found.type, found.to_pylist()) == (pa.string(), expected)


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32()])
@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1.5, float("nan")], ["1.5", None]),
        ([0.1, 2.0], ["0.1", "2"]),
        ([float(2**43), None], ["8796093022208", None]),  # an EAN, which a gap made a float
    ],
)
def test_floats_are_written_without_an_exponent_where_the_catalogue_has_text(values, texts, kind):
    found = typed(pa.chunked_array([values], kind), Place("items.parquet", "x"), pa.string())
    assert (found.type, found.to_pylist()) == (pa.string(), texts)


@pytest.mark.parametrize("known", [pa.int64(), DATE, pa.bool_(), pa.list_(pa.string()), pa.string()])
@pytest.mark.parametrize("kind", [pa.string(), pa.null(), pa.float64(), pa.timestamp("ns"), pa.bool_(), pa.int32()])
def test_no_value_at_all_goes_with_every_type_of_the_catalogue(known, kind):
    values = [float("nan")] * 2 if kind == pa.float64() else [None] * 2  # pandas writes an empty column so
    found = typed(pa.chunked_array([values], kind), Place("items.parquet", "x"), known)
    assert (found.type, found.to_pylist()) == (known, [None, None])


@pytest.mark.parametrize("values", [[float(2**43), None], ["5.0", ""]])
def test_whole_numbers_that_a_gap_made_floats_stay_whole_in_the_catalogue(values):
    place = Place("items.parquet", "x")
    assert typed(pa.chunked_array([values]), place, pa.int64()).to_pylist() == [int(float(values[0])), None]
    assert typed(pa.chunked_array([values]), place).type == pa.float64()
    assert typed(pa.chunked_array([[0.5, None]]), place, pa.int64()).type == pa.float64()


def test_numbers_beyond_64_bits_are_an_error_in_words():
    with pytest.raises(UnigrecError, match=r"column 'x' cannot be served as numbers: .*write it as text"):
        typed(pa.chunked_array([[2**63]], pa.uint64()), Place("items.csv", "x"))


def test_a_column_of_pictures_is_refused():
    with pytest.raises(UnigrecError, match=r"items.csv: column 'x' is of type binary; serve.columns takes"):
        typed(pa.chunked_array([[b"\x00"]], pa.binary()), Place("items.csv", "x"))


def test_a_column_that_is_not_there_is_an_error_that_lists_what_is(tmp_path):
    folder_of(tmp_path)
    with pytest.raises(UnigrecError, match=r"no column 'price'; their columns are: title"):
        load(tmp_path, ("price",))
    with pytest.raises(
        UnigrecError, match=r"no column 'colour'; their columns are: brand, categories, price, in_stock"
    ):
        load(tmp_path, ("colour",), source="sample")


def test_the_sample_has_prices_and_is_otherwise_the_same():
    plain, priced = (load(".", columns, source="sample") for columns in ((), ("price", "in_stock", "categories")))
    assert plain.items.equals(priced.items)
    assert plain.interactions.equals(priced.interactions)
    assert priced.served is not None
    assert priced.served.schema.types[1:] == [pa.float64(), pa.bool_(), pa.list_(pa.string())]


def test_first_seen_is_the_date_of_the_column_or_the_first_training_interaction():
    """One user: a and b in the training part, c and a held out."""

    day = 86_400
    sequences = {"items": np.array([0, 1, 2, 0]), "timestamps": np.arange(1, 5) * day, "offsets": np.array([0, 4])}
    prepared = Prepared(sequences, pa.table({}), pa.table({"item_id": ["a", "b", "c"]}), {})
    given = pa.table({"item_id": ["c", "a"], "price": [3.0, 1.0], "since": pa.array([9 * day, None], DATE)})
    found = served_items(prepared, given)
    assert found["price"].to_pylist() == [1.0, None, 3.0]
    assert found["first_seen"].cast(pa.int64()).to_pylist() == [day, 2 * day, None]
    assert served_items(prepared, given, "since")["first_seen"].cast(pa.int64()).to_pylist() == [day, 2 * day, 9 * day]
    with pytest.raises(UnigrecError, match=r"serve.date: column 'price' holds double, not dates"):
        served_items(prepared, given, "price")
    no_days = prepared._replace(sequences=sequences | {"timestamps": np.arange(4)})
    assert served_items(no_days, None).column_names == ["item_id"]
