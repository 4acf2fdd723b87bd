"""Cases of bad input in which a file is missing, damaged, or in another format."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from support.shop import (
    ITEMS,
    ROWS,
    Case,
    accepted,
    as_csv,
    csv_bytes,
    interactions,
    invalid,
    items,
    parquet_bytes,
    refused,
    write,
    write_csv,
)

HEADER = b"user_id,item_id,timestamp\n"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def folder_is_a_file(folder: Path) -> None:
    folder.rmdir()
    folder.write_text("not a folder")


def folder_is_missing(folder: Path) -> None:
    folder.rmdir()


def items_missing(folder: Path) -> None:
    write(folder)
    (folder / "items.parquet").unlink()


def both_formats(folder: Path) -> None:
    write(folder)
    (folder / "interactions.csv").write_bytes(as_csv(interactions()))


def one_of_each_format(folder: Path) -> None:
    write(folder)
    (folder / "items.parquet").unlink()
    (folder / "items.csv").write_bytes(as_csv(items()))


def link_to_itself(folder: Path) -> None:
    write(folder)
    (folder / "items.parquet").unlink()
    (folder / "items.parquet").symlink_to("items.parquet")


def link_to_nothing(folder: Path) -> None:
    link_to_itself(folder)
    (folder / "items.parquet").unlink()
    (folder / "items.parquet").symlink_to("moved/items.parquet")


def unreadable(folder: Path) -> None:
    write(folder)
    (folder / "items.parquet").chmod(0)


def folder_instead_of_csv(folder: Path) -> None:
    write_csv(folder)
    (folder / "items.csv").unlink()
    (folder / "items.csv").mkdir()


def folder_without_parts(folder: Path) -> None:
    write(folder)
    (folder / "items.parquet").unlink()
    (folder / "items.parquet").mkdir()
    (folder / "items.parquet" / "_SUCCESS").touch()


def parts(*tables: pa.Table | bytes):
    """Write interactions as a folder of parts."""

    def breaks(folder: Path) -> None:
        write(folder)
        whole = folder / "interactions.parquet"
        whole.unlink()
        whole.mkdir()
        for number, table in enumerate(tables):
            part = whole / f"part-{number}.parquet"
            if isinstance(table, bytes):
                part.write_bytes(table)
            else:
                pq.write_table(table, part)

    return breaks


def halves() -> tuple[pa.Table, pa.Table]:
    whole = pa.table(interactions())
    return whole.slice(0, ROWS // 2), whole.slice(ROWS // 2)


def part_with_other_ids() -> tuple[pa.Table, pa.Table]:
    first, second = halves()
    return first, second.set_column(0, "user_id", pa.array(range(second.num_rows)))


def packed_csv(folder: Path) -> None:
    write_csv(folder)
    (folder / "items.csv").unlink()
    (folder / "items.csv.gz").write_bytes(gzip.compress(as_csv(items())))


def cut_packed_csv(folder: Path) -> None:
    packed_csv(folder)
    file = folder / "items.csv.gz"
    file.write_bytes(file.read_bytes()[:-9])


def lines_of_json(folder: Path) -> None:
    for name, columns in (("interactions", interactions()), ("items", items())):
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def cut_lines_of_json(folder: Path) -> None:
    lines_of_json(folder)
    file = folder / "interactions.jsonl"
    file.write_bytes(file.read_bytes()[:-9])


def table_with_a_log(name: str):
    """Interactions in two parts, and the log of a table format next to them."""

    def breaks(folder: Path) -> None:
        parts(*halves())(folder)
        log = folder / "interactions.parquet" / name
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("{}")

    return breaks


def flipped(content: bytes) -> bytes:
    """Flip the bits of some values; header and footer stay intact."""
    return content[:200] + bytes(byte ^ 255 for byte in content[200:260]) + content[260:]


def reheaded(old: bytes, new: bytes):
    return lambda content: content.replace(old, new, 1)


CASES: list[Case] = [
    # Where the data should be
    refused("no such folder", folder_is_missing, r"does not exist; ingest\.path must be the folder"),
    refused("a file instead of the folder", folder_is_a_file, r"is a file; ingest\.path must be the folder"),
    refused("an empty folder", lambda folder: None, r"holds no interactions\.parquet .*\(found: nothing\)"),
    refused("one of the two files missing", items_missing, r"holds no items\.parquet and no items\.csv"),
    refused("one file in both formats", both_formats, r"both interactions\.parquet and interactions\.csv; remove"),
    accepted("one file Parquet, the other CSV", one_of_each_format, items=ITEMS, interactions=ROWS),
    refused("a link to itself", link_to_itself, r"items\.parquet: a link that leads nowhere"),
    refused("a link to nothing", link_to_nothing, r"items\.parquet: a link that leads nowhere"),
    refused("a file that may not be read", unreadable, r"items\.parquet: may not be read"),
    refused("a folder instead of a CSV file", folder_instead_of_csv, r"items\.csv: a folder without \*\.csv parts"),
    refused("a folder of parts without parts", folder_without_parts, r"items\.parquet: a folder without \*\.parquet"),
    accepted("packed CSV", packed_csv, items=ITEMS, interactions=ROWS),
    refused("packed CSV that is cut off", cut_packed_csv, r"items\.csv\.gz: damaged or cut off"),
    # CSV
    refused("an empty file", csv_bytes(lambda _: b""), r"interactions\.csv: the file is empty"),
    refused("blank lines only", csv_bytes(lambda _: b"\n \n\n"), r"interactions\.csv: "),
    refused("a header without rows", csv_bytes(lambda _: HEADER), "has a header but no rows"),
    refused("no header", csv_bytes(lambda old: old.removeprefix(HEADER)), r"no column 'user_id' \(found: u0, i0"),
    refused(
        "a column in other case", csv_bytes(reheaded(b"user_id", b"User_ID")), r"no column 'user_id' \(found: User_ID"
    ),
    refused("a column of another name", csv_bytes(reheaded(b"item_id", b"asin")), r"no column 'item_id'.*asin"),
    refused("a blank in a column's name", csv_bytes(reheaded(b"item_id", b" item_id")), "no column 'item_id'"),
    refused("a column twice", csv_bytes(lambda old: b"user_id," + old.replace(b"\nu", b"\nx,u")), "named 'user_id'"),
    accepted("a byte order mark", csv_bytes(lambda old: b"\xef\xbb\xbf" + old), interactions=ROWS),
    accepted("Windows line ends", csv_bytes(lambda old: old.replace(b"\n", b"\r\n")), interactions=ROWS),
    accepted("line ends of an old Mac", csv_bytes(lambda old: old.replace(b"\n", b"\r")), interactions=ROWS),
    accepted("blank lines between rows", csv_bytes(lambda old: old.replace(b"\n", b"\n\n")), interactions=ROWS),
    accepted("semicolons", csv_bytes(lambda old: old.replace(b",", b";")), interactions=ROWS),
    accepted("tabs", csv_bytes(lambda old: old.replace(b",", b"\t")), interactions=ROWS),
    accepted("line ends of two kinds", csv_bytes(lambda old: old.replace(b"\n", b"\r\n", 9)), interactions=ROWS),
    refused("a quote that never closes", csv_bytes(lambda old: old + b'"u1,i1,5\n'), r"cannot be read as CSV"),
    refused("a row too short", csv_bytes(lambda old: old + b"u1,i1\n"), "cannot be read as CSV.*Expected 3 columns"),
    refused("a row too long", csv_bytes(lambda old: old + b"u1,i1,5,6\n"), "cannot be read as CSV.*Expected 3 columns"),
    refused("cut off within a row", csv_bytes(lambda old: old[: -len(b",1400059090\n")]), "Expected 3 columns, got 2"),
    accepted("Latin-1", csv_bytes(reheaded(b"oak", "chêne".encode("latin-1")), "items"), items=ITEMS),
    accepted("UTF-16", csv_bytes(lambda old: old.decode().encode("utf-16")), interactions=ROWS),
    invalid(
        "NUL bytes in an id", csv_bytes(reheaded(b"\nu0,i0,", b"\nu0,i\0,")), r"item.*is in the items table.*i\\u0000"
    ),
    refused("a page instead of the file", csv_bytes(lambda _: b"<!doctype html>\n<p>Sign in\n"), "no column 'user_id'"),
    refused("Parquet named CSV", csv_bytes(lambda _: b"PAR1\x15\x04\x15\x80\xff\n"), r"interactions\.csv: "),
    refused(
        "16 megabytes in a CSV row",
        csv_bytes(reheaded(b"oak", b"oak " * 2**22), "items"),
        r"items\.csv: a row is longer than 8,388,608 bytes",
    ),
    accepted("two megabytes in a CSV row", csv_bytes(reheaded(b"oak", b"oak " * 2**19), "items"), items=ITEMS),
    accepted("JSON lines", lines_of_json, items=ITEMS, interactions=ROWS),
    refused("JSON lines that are cut off", cut_lines_of_json, r"interactions\.jsonl: cannot be read as JSON lines"),
    # Parquet
    refused("a Delta table", table_with_a_log("_delta_log/00000000000000000000.json"), "is a Delta table"),
    refused("an Iceberg table", table_with_a_log("metadata/v1.metadata.json"), "is an Iceberg table"),
    refused("a Hudi table", table_with_a_log(".hoodie/hoodie.properties"), "is a Hudi table"),
    refused("the output of a stream", table_with_a_log("_spark_metadata/0"), "is the output of a Spark stream"),
    refused("an empty Parquet file", parquet_bytes(lambda _: b""), r"interactions\.parquet: the file is empty"),
    refused("Parquet cut in half", parquet_bytes(lambda old: old[: len(old) // 2]), "cannot be read as Parquet"),
    refused("Parquet with a bad footer", parquet_bytes(lambda old: old[:-40] + b"x" * 32 + old[-8:]), "as Parquet"),
    refused("Parquet with damaged pages", parquet_bytes(flipped), "cannot be read as Parquet"),
    refused("CSV named Parquet", parquet_bytes(lambda _: as_csv(interactions())), "cannot be read as Parquet"),
    refused("a Git LFS pointer", parquet_bytes(lambda _: LFS_POINTER), "cannot be read as Parquet"),
    accepted("interactions in two parts", parts(*halves()), interactions=ROWS),
    refused("a part cut off", parts(halves()[0], b"PAR1 and no more"), r"part-1\.parquet: .*as Parquet"),
    refused("an empty part", parts(halves()[0], b""), r"part-1\.parquet: the file is empty"),
    refused("parts that lack a column", parts(halves()[0], halves()[1].drop_columns("timestamp")), "no column 'time"),
    refused(
        "parts of different types",
        parts(*part_with_other_ids()),
        r"interactions\.parquet: the parts differ in their columns: .*user_id",
    ),
]
