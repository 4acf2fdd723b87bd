"""What is proposed for a folder, and what is left to a person."""

from __future__ import annotations

import gzip
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.command_line import invoke
from support.project import PARAMS_FILE
from unigrec.base.errors import EXIT_BAD_INPUT, EXIT_OK
from unigrec.config.read import load_params
from unigrec.data.sources.load import load_source

ORDERS = "Order;CustomerNo;ProductNo;{time};Qty\n" + "".join(
    f"{row};00{row % 3};{row % 5};2020-10-{row + 10} 12:00:00;1\n" for row in range(15)
)
PRODUCTS = "SKU;Name;Maker;Link;Price\n" + "".join(
    f"{item};red lamp {item};Nord;https://shop/{item};{item}.5\n" for item in range(5)
)


@pytest.fixture(autouse=True)
def _project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(PARAMS_FILE, "params.yaml")
    Path("shop").mkdir()


def write(orders: str = ORDERS.format(time="OrderDate"), products: str = PRODUCTS) -> None:
    Path("shop/orders.csv").write_text(orders)
    Path("shop/products.csv").write_text(products)


def test_names_of_a_shop_are_proposed_written_and_then_read():
    write()
    code, said = invoke("look", "shop")
    assert code == EXIT_OK
    assert "item_id: ProductNo (in the items: SKU)" in said
    assert "000      0        2020-10-10 12:00:00  red lamp 0" in said
    assert "taken as UTC" in said
    assert Path("params.yaml").read_text() == PARAMS_FILE.read_text()

    code, said = invoke("look", "shop", "--write")
    assert code == EXIT_OK
    assert "ingest.columns.user_id: user_id -> CustomerNo" in said
    params = load_params(Path("params.yaml"))
    assert params.embed.text_columns == ("Name", "Maker")
    source = load_source(params.ingest, 0, params.embed.text_columns)
    assert (source.interactions.num_rows, source.items.column_names) == (15, ["item_id", "Name", "Maker", "Link"])
    assert invoke("look", "shop", "--write")[1].endswith("params.yaml: no values changed\n")


@pytest.mark.parametrize("pack", [False, True])
def test_files_with_endings_in_upper_case_are_proposed_and_then_read(pack):
    write()
    for name in ("orders", "products"):
        file = Path("shop", f"{name}.csv")
        content = file.read_bytes()
        file.unlink()
        Path("shop", f"{name.upper()}.CSV{'.GZ' if pack else ''}").write_bytes(
            gzip.compress(content) if pack else content
        )
    code, said = invoke("look", "shop", "--write")
    assert (code, "ingest.files.interactions: interactions -> ORDERS" in said) == (EXIT_OK, True), said
    params = load_params(Path("params.yaml"))
    assert load_source(params.ingest, 0, params.embed.text_columns).interactions.num_rows == 15


def test_a_folder_with_our_names_changes_nothing_but_the_path():
    write(
        ORDERS.replace("CustomerNo;ProductNo;{time}", "user_id;item_id;timestamp"),
        PRODUCTS.replace("SKU;Name;Maker", "item_id;title;brand"),
    )
    Path("shop/orders.csv").rename("shop/interactions.csv")
    Path("shop/products.csv").rename("shop/items.csv")
    before = load_params(Path("params.yaml"))
    assert invoke("look", "shop", "--write")[0] == EXIT_OK
    after = load_params(Path("params.yaml"))
    assert (after.ingest.columns, after.embed, after.ingest.path) == (before.ingest.columns, before.embed, "shop")


@pytest.mark.parametrize(
    ("orders", "products", "question"),
    [
        (ORDERS.replace("Order;", "ClientId;").format(time="OrderDate"), PRODUCTS, "user_id: ClientId or CustomerNo"),
        (ORDERS.format(time="When"), PRODUCTS.replace("red lamp", "12").replace("Nord", "7"), "describe the items"),
        (
            ORDERS.replace("Qty", "EventDate").replace(";1\n", ";2020-11-01\n").format(time="OrderDate"),
            PRODUCTS,
            "timestamp: OrderDate or EventDate",
        ),
        (ORDERS.format(time="OrderDate").replace("2020-", "03/04/2020 "), PRODUCTS, "which of orders, products"),
    ],
)
def test_what_has_two_readings_is_asked_and_not_written(orders, products, question):
    write(orders, products)
    code, said = invoke("look", "shop")
    assert (code, question in said) == (EXIT_OK, True), said
    code, said = invoke("look", "shop", "--write")
    assert (code, "nothing was written" in said) == (EXIT_BAD_INPUT, True), said
    assert Path("params.yaml").read_text() == PARAMS_FILE.read_text()


def test_a_snapshot_has_our_names_and_keeps_those_of_deliveries():
    write()
    invoke("look", "shop", "--write")
    Path("snapshot").mkdir()
    Path("snapshot/lineage.json").write_text("{}")
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["a"], "timestamp": [1]}), "snapshot/interactions.parquet")
    assert invoke("look", "snapshot", "--write")[0] == EXIT_OK
    assert load_params(Path("params.yaml")).ingest.columns.user_id == "CustomerNo"


def test_folders_that_hold_no_two_data_sets():
    code, said = invoke("look", "shop")
    assert (code, "needs interactions and items" in said) == (EXIT_BAD_INPUT, True)
    code, said = invoke("look", "none")
    assert (code, "no such folder" in said) == (EXIT_BAD_INPUT, True)


def test_an_answer_to_a_question_is_taken():
    code, said = shopify_look()
    assert "unsure: which column is the item_id: Lineitem name or Lineitem sku?" in said
    invoke("configure", "--set", "ingest.columns.item_id=Lineitem sku")
    code, said = invoke("look", "shop", "--write")
    assert code == EXIT_OK, said
    columns = load_params(Path("params.yaml")).ingest.columns
    assert (columns.user_id, columns.item_id, columns.items_id) == ("Email", "Lineitem sku", "Variant SKU")


def shopify_look() -> tuple[int, str]:
    """Look at orders that name customers by e-mail, and products by name and by number."""
    orders = "".join(f"c{row % 3}@x.org,2020-10-{row + 10},red lamp {row % 5},00{row % 5}\n" for row in range(15))
    products = "".join(f"red lamp {item},00{item}\n" for item in range(5))
    write("Email,Created at,Lineitem name,Lineitem sku\n" + orders, "Title,Variant SKU\n" + products)
    return invoke("look", "shop")


def test_e_mail_addresses_are_users_where_nothing_else_is():
    assert "user_id: Email, by its name" in (said := shopify_look()[1])
    assert "hash them first" in said
    order = '{{"customer": {{"id": {0}}}, "Email": "c{0}@x.org", "at": "2020-10-11 09:00:00", "sku": "00{1}"}}\n'
    Path("shop/orders.csv").rename("orders.csv")
    Path("shop/orders.jsonl").write_text("".join(order.format(row % 3, row % 5) for row in range(9)))
    assert "user_id: Email, by its name" in invoke("look", "shop")[1]  # `customer` holds no ids
    with Path("shop/orders.jsonl").open("a") as file:
        file.write(order.format(1, 1).replace('"customer"', '"Customer"'))
    assert "another key differs from 'Customer' in case alone" in invoke("look", "shop")[1]
    Path("shop/orders.jsonl").unlink()
    write(ORDERS.format(time="OrderDate").replace("Qty", "Email"))
    assert "user_id: CustomerNo, by its name" in invoke("look", "shop")[1]


def test_a_named_user_column_tells_which_file_is_the_log():
    write(ORDERS.format(time="OrderDate").replace("CustomerNo", "Panel"))
    assert "which of orders, products" in invoke("look", "shop")[1]
    invoke("configure", "--set", "ingest.columns.user_id=Panel")
    assert "interactions: orders.csv" in invoke("look", "shop", "--write")[1]


def test_a_missing_text_column_is_replaced_by_one_called_alike():
    write(products=PRODUCTS.replace("Maker", "brand"))
    assert "texts: Name, brand\n" in invoke("look", "shop", "--write")[1]
    assert load_params(Path("params.yaml")).embed.text_columns == ("Name", "brand")


def test_every_missing_text_column_is_replaced():
    write(products=PRODUCTS.replace("Maker;Link", "brand;product_category"))
    assert "texts: Name, brand\n" in invoke("look", "shop")[1]  # links are no categories
    write(products=PRODUCTS.replace("Maker;Link", "brand;product_category").replace("https://shop/", "lamps "))
    assert "texts: Name, brand, product_category\n" in invoke("look", "shop")[1]


@pytest.mark.parametrize("parts", [1, 3])
def test_a_log_of_items_that_come_late_in_a_long_catalogue_is_recognised(parts: int):
    rows = 30_000
    items = pa.table({"product_id": range(rows), "product_type": ["lamp"] * rows})
    log = pa.table({"household_id": [row % 50 for row in range(500)], "product_id": range(rows - 500, rows)})
    log = log.append_column("transaction_timestamp", pa.array([1_600_000_000 + row for row in range(500)]))
    pq.write_table(log, "shop/transactions.parquet")
    Path("shop/products").mkdir()
    for part in range(parts):
        pq.write_table(items.slice(part * rows // parts, rows // parts), f"shop/products/part-{part}.parquet")
    code, said = invoke("look", "shop", "--write")
    assert (code, "unsure" in said) == (EXIT_OK, False)
    assert "item_id: product_id (in the items: product_id), by their common values" in said
    assert load_params(Path("params.yaml")).ingest.columns.user_id == "household_id"


def test_of_several_logs_and_catalogues_those_that_name_items_are_taken():
    write()
    coupons = "CustomerNo;Campaign;RedeemedOn\n00{0};{0};2020-10-{1} 12:00:00\n"
    Path("shop/redemptions.csv").write_text(coupons.format(1, 11) + coupons.format(2, 12).split("\n", 1)[1])
    Path("shop/campaigns.csv").write_text("Campaign;Kind\n1;paper\n2;mail\n")
    Path("shop/customers.csv").write_text("CustomerNo;Town\n000;Oslo\n001;Bergen\n002;Hamar\n")
    assert invoke("look", "shop")[1].startswith("shop:\n  interactions: orders.csv\n  items: products.csv\n")
    orders = Path("shop/orders.csv").read_text().replace("ProductNo", "Thing")
    Path("shop/orders.csv").write_text(orders)
    assert "more than one pair of them would do" in invoke("look", "shop")[1]


def test_users_are_not_taken_for_items_where_all_ids_are_numbers_from_one():
    rows = [f"{user},{movie},{user % 5 + 1},8812509{user}{movie % 10}" for user in range(1, 10) for movie in (1, 4, 12)]
    Path("shop/data.csv").write_text("\n".join(["user_id,movie_id,rating,timestamp", *rows]) + "\n")
    Path("shop/users.csv").write_text("user_id,age\n" + "".join(f"{user},3{user}\n" for user in range(1, 10)))
    movies = "".join(f"{movie},Part {movie} of a saga,rented,1\n" for movie in range(1, 15))
    Path("shop/items.csv").write_text(f"movie_id,movie_title,state,Drama\n{movies}")
    code, said = invoke("look", "shop", "--write")
    assert (code, "unsure" in said) == (EXIT_OK, False)
    params = load_params(Path("params.yaml"))
    assert (params.ingest.files.interactions, params.ingest.files.items) == ("data", "items")
    assert (params.ingest.columns.user_id, params.ingest.columns.item_id) == ("user_id", "movie_id")
    assert params.embed.text_columns == ("movie_title",)


def test_a_german_export_is_recognised():
    rows = [f"{user};{item};2020-10-1{user} 12:00:00;1" for user in range(1, 5) for item in ("A1", "A2", "A3")]
    Path("shop/orders.csv").write_text("\n".join(["Kundennummer;Artikelnummer;Bestelldatum;Menge", *rows]) + "\n")
    Path("shop/artikel.csv").write_text("Artikelnummer;title\nA1;Lampe rot\nA2;Lampe blau\nA3;Stuhl\n")
    code, said = invoke("look", "shop", "--write")
    assert (code, "unsure" in said) == (EXIT_OK, False), said
    columns = load_params(Path("params.yaml")).ingest.columns
    named = (columns.user_id, columns.item_id, columns.timestamp)
    assert named == ("Kundennummer", "Artikelnummer", "Bestelldatum")


def test_items_called_like_users_are_found_where_nothing_else_is():
    rows = [f"u{user},{item},2020-10-1{user} 12:00:00" for user in range(1, 5) for item in range(11, 15)]
    Path("shop/orders.csv").write_text("\n".join(["user_id,product_uid,timestamp", *rows]) + "\n")
    Path("shop/products.csv").write_text("uid,title\n" + "".join(f"{item},red lamp {item}\n" for item in range(11, 15)))
    code, said = invoke("look", "shop")
    assert (code, "unsure" in said) == (EXIT_OK, False)
    assert "item_id: product_uid (in the items: uid), by their common values" in said


def test_a_file_without_a_header_is_named():
    write(ORDERS.format(time="OrderDate").split("\n", 1)[1])
    code, said = invoke("look", "shop", "--write")
    assert (code, "columns of orders.csv are: it has no header (its first line: 000, 2020-" in said) == (2, True), said


def test_types_of_events_are_pointed_out():
    rows = "".join(f"{row % 3};{row % 5};2020-10-{row + 10};{('view', 'buy')[row % 2]}\n" for row in range(15))
    write("CustomerNo;ProductNo;OrderDate;event_type\n" + rows)
    assert "event_type looks like the type of event (buy, view)" in invoke("look", "shop")[1]


def test_a_column_of_lists_holds_no_types_of_events():
    write()
    Path("shop/orders.csv").unlink()
    times = [f"2020-10-{row + 10}" for row in range(15)]
    columns = {"CustomerNo": [f"c{row % 3}" for row in range(15)], "ProductNo": [str(row % 5) for row in range(15)]}
    pq.write_table(
        pa.table({**columns, "OrderDate": times, "action": [["a"], ["b"]] * 7 + [["a"]]}), "shop/orders.parquet"
    )
    code, said = invoke("look", "shop")
    assert (code, "type of event" in said, "the first rows" in said) == (EXIT_OK, False, True), said


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        (("ratings.dat", "movies.dat"), "configure --data shop --source movielens"),
        (("shop.duckdb",), "shop.duckdb is a database"),
    ],
)
def test_files_of_another_source_are_told(files, hint):
    for name in files:
        Path("shop", name).write_text("1::2::3::4")
    code, said = invoke("look", "shop")
    assert (code, hint in said) == (EXIT_BAD_INPUT, True), said


@pytest.mark.parametrize("named", ["shop", "shop/my shop.db"])
def test_tables_of_a_database_are_listed_as_a_query_names_them(named):
    for name in ("orders.csv", "products.csv"):
        Path("shop", name).unlink(missing_ok=True)
    with closing(sqlite3.connect("shop/my shop.db")) as database:
        database.execute('CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, "Cust No" TEXT)')
        database.execute("CREATE VIEW paid AS SELECT id FROM orders")
    code, said = invoke("look", named)
    assert code == EXIT_BAD_INPUT
    assert "my shop.db is an SQLite database\n  my_shop.orders (id, Cust No)\n  my_shop.paid (id)\n" in said
    assert "with ingest.sql.attach={my_shop: shop/my shop.db}; set ingest.source to sql" in said


def test_a_damaged_database_is_an_error():
    Path("shop/shop.db").write_bytes(b"SQLite format 3\x00" + bytes(300))
    code, said = invoke("look", "shop")
    assert (code, "shop.db: cannot be read as SQLite" in said) == (EXIT_BAD_INPUT, True), said
