"""The SQL source: what queries may read, what they may not do, and that their rows keep one order."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unigrec.base.errors import UnigrecError
from unigrec.config.schema import ColumnsParams, IngestParams, SampleParams, SqlParams
from unigrec.data.sources.load import load_source
from unigrec.data.sources.source import Source

MOMENT = 1_318_896_000
ITEMS = "SELECT 'a' AS item_id, 'A' AS title"


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(interactions: str, items: str = ITEMS, attach: dict[str, str] | None = None, **settings) -> Source:
    sample = SampleParams(users=40, items=30, interactions=300)
    sql = SqlParams(interactions=interactions, items=items, attach=attach or {})
    values = {"source": "sql", "path": "anything", "min_rating": 0.0, "sample": sample, "sql": sql, **settings}
    return load_source(IngestParams(**values), 0, ("title",))


def test_a_join_of_csv_and_parquet_with_own_names():
    Path("log.csv").write_text("Customer;Line;Day\n01;1;2011-10-18\n02;2;2011-10-19\n")
    pq.write_table(pa.table({"Line": [1, 2], "sku": ["a", "b"]}), "lines.parquet")
    query = """SELECT Customer, sku, Day FROM read_csv('log.csv', types = {'Customer': 'VARCHAR'})
               JOIN 'lines.parquet' USING (Line) ORDER BY Day -- a remark"""
    source = load(
        query,
        "SELECT 'a' AS no, ['x', 'y'] AS title, 1 AS price;",
        columns=ColumnsParams(user_id="customer", item_id="sku", timestamp="day", items_id="no"),
    )
    assert source.interactions.to_pydict() == {
        "user_id": ["01", "02"],
        "item_id": ["a", "b"],
        "timestamp": [MOMENT, MOMENT + 86_400],
    }
    assert source.items.to_pydict() == {"item_id": ["a"], "title": ["x | y"]}
    assert source.provenance["dropped_item_columns"] == ["price"]
    assert source.provenance["queries"]["interactions"] == query
    assert ["days without a time" in warning for warning in source.warnings] == [True]


def test_rows_of_several_files_keep_their_order():
    rows = 30_000
    for part in range(3):
        ids = [part * rows + row for row in range(rows)]
        table = pa.table({"user_id": ids, "item_id": ["a"] * rows, "timestamp": [7] * rows})
        pq.write_table(table, f"part-{part}.parquet", row_group_size=1000)
    source = load("SELECT * FROM 'part-*.parquet' WHERE user_id % 2 = 0")
    assert source.interactions["user_id"].to_pylist() == [str(row) for row in range(0, 3 * rows, 2)]


def test_numbers_of_sqlite_that_no_float_holds_are_text():
    large = 2**53 + 1
    with closing(sqlite3.connect("shop.db")) as shop, shop:
        shop.execute("CREATE TABLE orders (user_id, item_id, timestamp, amount)")
        shop.executemany(
            "INSERT INTO orders VALUES (?, 'a', ?, ?)", [("u", MOMENT, 1.5), ("v", MOMENT, large), ("w", MOMENT, None)]
        )
    query = "SELECT {} AS user_id, item_id, timestamp FROM shop.orders"
    attach = {"shop": "shop.db"}
    assert load(query.format("user_id"), attach=attach).interactions["user_id"].to_pylist() == ["u", "v", "w"]
    amounts = load(query.format("amount"), attach=attach).interactions["user_id"].to_pylist()
    assert amounts == ["1.5", str(large), None]


def test_sqlite_is_read_and_stays_as_it_is():
    with sqlite3.connect("shop.db") as shop:
        shop.execute("CREATE TABLE orders (user_id TEXT, item_id, timestamp INTEGER)")
        shop.executemany("INSERT INTO orders VALUES (?, ?, ?)", [("007", 1, MOMENT * 1000), ("u", "b", MOMENT * 1000)])
        shop.execute("CREATE TABLE secrets (word TEXT)")
        shop.execute("CREATE VIEW products AS SELECT 1 AS item_id, 'A' AS title")
    shop.close()
    before = Path("shop.db").read_bytes()
    source = load("SELECT * FROM shop.orders", "SELECT * FROM shop.products", {"shop": "shop.db"})
    assert source.interactions.to_pydict() == {
        "user_id": ["007", "u"],
        "item_id": ["1", "b"],
        "timestamp": [MOMENT] * 2,
    }
    assert source.warnings == ("ingest.sql.interactions: column 'timestamp' holds milliseconds: divided by 1,000",)
    assert Path("shop.db").read_bytes() == before
    assert [file.name for file in Path().iterdir()] == ["shop.db"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("COPY (SELECT 1) TO 'out.csv'", "must be a single SELECT"),
        ("ATTACH 'other.db'", "must be a single SELECT"),
        ("SELECT 1; COPY (SELECT 1) TO 'out.csv'", "must be a single SELECT"),
        ("INSTALL httpfs", "must be a single SELECT"),
        ("SELECT FROM", "ingest.sql.interactions: Parser Error"),
        (
            "SELECT 'u' AS user_id, 'a' AS item_id",
            "no column 'timestamp' .found: user_id, item_id.; name it so, with AS",
        ),
        ("SELECT 'u' AS user_id, 'a' AS item_id, 1 AS timestamp WHERE false", "answered with no rows"),
        ("SELECT * FROM 'nothing.parquet'", "ingest.sql.interactions: .*nothing.parquet"),
        ("SELECT * FROM sqlite_scan('x.db', 't')", "install the extension that it needs"),
    ],
)
def test_what_a_query_may_not_do(query, words, tmp_path):
    with pytest.raises(UnigrecError, match=words):
        load(query)
    assert not list(tmp_path.iterdir())


def test_a_query_does_not_read_dead_files_of_a_delta_table():
    log = Path("lake/orders/_delta_log")
    log.mkdir(parents=True)
    row = {"user_id": ["u"], "item_id": ["a"], "timestamp": [1]}
    pq.write_table(pa.table(row), "lake/orders/part-0.parquet")
    for path in ("lake/orders/*.parquet", "lake/**/*.parquet", "lake/orders/part-0.parquet"):
        with pytest.raises(UnigrecError, match="is a Delta table"):
            load(f"SELECT * FROM read_parquet('{path}')")


def test_ids_that_csv_may_have_lost_zeros_of_are_named():
    rows = "".join(f"{user},a,1318896000\n" for user in [*range(1, 30_000), "007"])
    Path("log.csv").write_text(f"user_id,item_id,timestamp\n{rows}")
    (warning,) = load("SELECT * FROM 'log.csv'").warnings
    assert "'user_id' was read as numbers: if ids begin with zeros, add all_varchar = true" in warning
    source = load("SELECT * FROM read_csv('log.csv', all_varchar = true)")
    assert (source.interactions["user_id"].to_pylist()[-1], source.warnings) == ("007", ())


@pytest.mark.parametrize(
    "text",
    ["postgres:host=db password=s3cr3t", "postgres:postgres://shop:s3cr3t@db/shop", "postgres:dbname=x PWD=s3cr3t"],
)
def test_credentials_in_params_are_refused_and_not_shown(text):
    with pytest.raises(ValueError, match="holds a password; give it in the environment"):
        SqlParams(attach={"crm": text})


def test_a_database_that_cannot_be_attached_says_how_and_no_secret(monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "s3cr3t-word")
    with pytest.raises(UnigrecError, match=r"ingest\.sql\.attach: crm: .*INSTALL postgres") as caught:
        load("SELECT 1", attach={"crm": "postgres:host=127.0.0.1 port=1"})
    assert "s3cr3t" not in str(caught.value)
    with pytest.raises(UnigrecError, match=r"shop: none\.db: no such file"):
        load("SELECT 1", attach={"shop": "none.db"})


def test_both_queries_are_needed():
    with pytest.raises(ValueError, match=r"ingest\.source: sql needs two queries"):
        load("SELECT 1", "  ")
