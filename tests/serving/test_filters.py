"""Filter expressions against the same condition in Python, hostile ones, and what a bundle makes of them."""

from __future__ import annotations

import json
import operator
import weakref
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.small import few
from support.tiny_model import ITEMS, item_ids
from unigrec.base.errors import UnigrecError
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.serving import filters
from unigrec.serving.bundle import Bundle
from unigrec.serving.filters import CatalogueFilter

ROWS = [
    {"brand": "Canon", "price": 10.5, "stock": 3, "new": True, "tags": ["Ink", "Black"], "path": "Office > Ink"},
    {"brand": "HP", "price": 20.0, "stock": 0, "new": False, "tags": ["Paper"], "path": "Office > Paper"},
    {"brand": None, "price": None, "stock": None, "new": None, "tags": None, "path": None},
    {"brand": 'a "quoted" brand', "price": -1.0, "stock": 7, "new": True, "tags": [], "path": "ink"},
    {"brand": "канон", "price": 1e6, "stock": 1, "new": False, "tags": ["Ink", None], "path": ""},
]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory) -> CatalogueFilter:
    return of_rows(tmp_path_factory.mktemp("catalogue"))


def of_rows(folder: Path) -> CatalogueFilter:
    table = pa.Table.from_pylist(ROWS).append_column("two words", pa.array(["x", "y", None, "x", "y"]))
    pq.write_table(table.append_column("empty", pa.nulls(len(ROWS))), folder / "items.parquet")
    return CatalogueFilter(folder / "items.parquet")


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ('brand = "Canon"', [0]),
        ("brand = 'a \"quoted\" brand'", [3]),
        (r'brand = "a \"quoted\" brand"', [3]),
        ('brand = "канон" or brand = "HP"', [1, 4]),
        ('brand in ["HP", "канон", "none"]', [1, 4]),
        ("price < 20 and stock >= 3", [0, 3]),
        ("price = -1 or price > 9.9e5", [3, 4]),
        ("stock in [0, 1]", [1, 4]),
        ("new", [0, 3]),
        ("new = false", [1, 4]),
        ("not new", [1, 2, 4]),  # a null is not known to be new
        ("brand is null", [2]),
        ("not brand is null and not new", [1, 4]),
        ('tags has "Ink"', [0, 4]),
        ('not tags has "Ink"', [1, 2, 3]),
        ('path has "INK"', [0, 3]),  # a part of a text, in any case
        ('NEW or brand = "HP"', None),  # columns have one spelling
        ("new AND price < 20", [0, 3]),
        ("new or stock = 0 and price = 20", [0, 1, 3]),  # `and` binds first
        ("(new or stock = 0) and price = 20", [1]),
        ('`two words` = "x"', [0, 3]),
        ('empty = "x"', []),
        ("empty is null", [0, 1, 2, 3, 4]),
        ('empty has "x"', []),
        ('not empty has "x"', [0, 1, 2, 3, 4]),
    ],
)
def test_an_expression_holds_for_these_rows(catalogue, expression, rows):
    if rows is None:
        with pytest.raises(UnigrecError, match="no column 'NEW'"):
            catalogue.mask(expression)
    else:
        assert np.flatnonzero(catalogue.mask(expression)).tolist() == rows


LARGE = 2**53  # from here on a float does not hold every whole number
WHOLE = [0, -3, LARGE + 1, -LARGE - 1, 2**62, None]
BROKEN = [0.0, -2.5, 0.1, float(LARGE), float(LARGE + 2), -float(LARGE), 1e300, None]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> CatalogueFilter:
    folder = tmp_path_factory.mktemp("numbers")
    pq.write_table(pa.table({"whole": pa.array(WHOLE, pa.int64())}), folder / "whole.parquet")
    pq.write_table(pa.table({"broken": pa.array(BROKEN, pa.float64())}), folder / "broken.parquet")
    return CatalogueFilter(folder / "whole.parquet", folder / "broken.parquet")


@pytest.mark.parametrize("value", ["0.5", "-2.5", "0.1", "1e3", str(LARGE), str(LARGE + 1), str(-LARGE - 1), "1.5e18"])
@pytest.mark.parametrize(("column", "rows"), [("whole", WHOLE), ("broken", BROKEN)])
def test_numbers_are_compared_exactly_however_large(numbers, column, rows, value):
    number = float(value) if set(value) & set(".e") else int(value)
    for comparator, holds in (COMPARISONS | {">=": operator.ge}).items():
        expected = [row is not None and holds(row, number) for row in rows]
        assert numbers.mask(f"{column} {comparator} {value}").tolist() == expected, comparator
    assert numbers.mask(f"{column} in [{value}, 0]").tolist() == [row in (number, 0) for row in rows]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ('since > "0001-01-01T00:00+14:00"', "since holds dates; '0001-01-01T00:00[+]14:00' is none"),
        ('since < "9999-12-31T23:00-05:00"', "since holds dates"),
        ('exact < "1500-01-01"', "exact < .1500-01-01.* cannot be evaluated"),  # nanoseconds begin in 1677
        ("whole < 1e30", "too large a number"),
        ("whole < 1e999", "too large a number"),
    ],
)
def test_a_value_that_a_column_cannot_hold_is_an_error(tmp_path, expression, message):
    columns = {
        "since": pa.array([0], pa.timestamp("s")),
        "exact": pa.array([0], pa.timestamp("ns")),
        "whole": [2**60],
    }
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    with pytest.raises(UnigrecError, match=message):
        CatalogueFilter(tmp_path / "items.parquet").mask(expression)


COMPARISONS = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt}
LEAVES = st.one_of(
    st.tuples(st.sampled_from(["price", "stock"]), st.sampled_from(sorted(COMPARISONS)), st.integers(-3, 30)),
    st.tuples(st.just("brand"), st.sampled_from(["=", "!="]), st.sampled_from(["Canon", "HP", "канон"])),
    st.tuples(st.just("new"), st.just("="), st.booleans()),
)
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.tuples(st.just("not"), inner), st.tuples(st.sampled_from(["and", "or"]), inner, inner)),
    max_leaves=8,
)


def written(tree: tuple) -> str:
    if tree[0] == "not":
        return f"not ({written(tree[1])})"
    if tree[0] in ("and", "or"):
        return f"({written(tree[1])}) {tree[0]} ({written(tree[2])})"
    column, comparison, value = tree
    return f"{column} {comparison} {json.dumps(value, ensure_ascii=False)}"


def holds(tree: tuple, row: dict) -> bool:
    if tree[0] == "not":
        return not holds(tree[1], row)
    if tree[0] in ("and", "or"):
        both = [holds(part, row) for part in tree[1:]]
        return all(both) if tree[0] == "and" else any(both)
    column, comparison, value = tree
    return row[column] is not None and COMPARISONS[comparison](row[column], value)


@few
@given(EXPRESSIONS)
def test_random_expressions_hold_where_python_says_so(catalogue, tree):
    assert catalogue.mask(written(tree)).tolist() == [holds(tree, row) for row in ROWS]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "not understood at letter 1"),
        ("brand =", r"not understood at letter 8 .*for example: brand"),
        ("brand = Canon", "not understood at letter 9"),
        ('brand == "x"', "not understood at letter 8"),
        ("price < 'x'", "price is double; it cannot be compared with a text"),
        ("brand < 3", "brand is string; it cannot be compared with a number"),
        ("tags = 'Ink'", "tags is list"),
        ("brand", "brand alone must be a column of yes and no"),
        ("stock = 99999999999999999999", "too large a number"),
        ("nowhere = 1", "no column 'nowhere'; the catalogue has brand, price"),
        ('__import__("os").system("true")', "not understood"),
        ("brand = 1; drop table items", "not understood"),
        ("new or " * 400 + "new", "at most 2000"),
        ("not " * 60 + "new", "at most 30"),
        ("(" * 900, "not understood"),
        ('brand = "open', "not understood"),
        ("\x00", "not understood"),
    ],
)
def test_what_is_no_expression_is_an_error_that_says_where(catalogue, expression, message):
    with pytest.raises(UnigrecError, match=message):
        catalogue.mask(expression)


def test_masks_are_kept_but_not_without_end(catalogue, monkeypatch):
    monkeypatch.setattr(filters, "CACHED", 3)
    kept = catalogue.mask("price = 0")
    for number in range(1, 9):
        catalogue.mask(f"price = {number}")
        assert catalogue.mask("price = 0") is kept
    assert len(catalogue._masks) == 3


def test_masks_of_a_large_catalogue_take_no_more_memory_than_a_few_of_them(tmp_path, monkeypatch):
    pq.write_table(pa.table({"number": np.arange(1_000_000)}), tmp_path / "items.parquet")
    large = CatalogueFilter(tmp_path / "items.parquet")
    masks = [weakref.ref(large.mask(f"number < {n}")) for n in range(100)]
    kept = [mask() is not None for mask in masks]
    assert sum(kept) * 1_000_000 <= 64 * 2**20
    assert kept == sorted(kept)
    assert kept[-10:] == [True] * 10  # the last ones
    monkeypatch.setattr(filters, "CACHED_BYTES", 1)
    few_masks = CatalogueFilter(tmp_path / "items.parquet")
    masks = [weakref.ref(few_masks.mask(f"number < {n}")) for n in range(10)]
    assert sum(mask() is not None for mask in masks) == filters.FEWEST


@pytest.mark.parametrize("by", RankBy)
def test_a_filter_answers_as_an_allow_list_of_the_items_that_it_holds_for(pristine, by):
    bundle = Bundle.load(pristine)
    expression, allow = "train_count >= 7 or title is null", {*item_ids()[7:], item_ids()[0]}
    asked = {"histories": [["P3", "P4"], ["gone"]], "k": 4, "rank_by": by, "exclude_history": True}
    assert bundle.recommend(**asked, filter=expression) == bundle.recommend(**asked, allow=allow)
    both = bundle.recommend(**asked, filter=expression, deny={"P8"})
    assert both == bundle.recommend(**asked, allow=allow - {"P8"})
    assert bundle.similar("P3", k=3, filter=expression) == bundle.similar("P3", k=3, allow=allow)
    with pytest.raises(UnigrecError, match="leave no item"):
        bundle.recommend(**asked, filter=f"train_count > {ITEMS}")
