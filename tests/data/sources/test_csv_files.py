"""CSV: the header is found and read whatever lies before it and in whatever encoding it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from unigrec.base.errors import UnigrecError
from unigrec.data.sources.csv_files import HEAD_BYTES, read_csv

ROWS = b"u;a;1;2\nv;b;2;3\n"


def read(file: Path, content: bytes, notes: list[str] | None = None) -> dict:
    file.write_bytes(content)
    return read_csv(file, lambda names: names, [] if notes is None else notes).to_pydict()


def test_a_header_beyond_ascii_over_plain_rows_is_read_in_its_encoding(tmp_path):
    notes: list[str] = []
    read_columns = read(tmp_path / "log.csv", "Käufer;Artikel;Zeit;Größe\n".encode("cp1252") + ROWS, notes)
    assert read_columns == {"Käufer": ["u", "v"], "Artikel": ["a", "b"], "Zeit": ["1", "2"], "Größe": ["2", "3"]}
    assert notes == ["log.csv: not UTF-8; read as cp1252. If letters are wrong, save the file as UTF-8"]


def test_a_header_whose_letters_were_lost_before_is_kept_as_it_is(tmp_path):
    notes: list[str] = []
    assert list(read(tmp_path / "log.csv", "K\ufffdufer;b;c;d\n".encode() + ROWS, notes)) == [
        "K\ufffdufer",
        *"bcd",
    ]
    assert notes == []


def test_bytes_that_nobody_reads_change_nothing(tmp_path):
    """A log of UTF-8 with one broken byte in a column that is not asked for stays UTF-8."""
    (tmp_path / "log.csv").write_bytes("user;agent\nJürgen;".encode() + b"caf\xe9\nAnna;x\n")
    notes: list[str] = []
    table = read_csv(tmp_path / "log.csv", lambda names: names[:1], notes)
    assert (table.to_pydict(), notes) == ({"user": ["Jürgen", "Anna"]}, [])


def test_a_letter_that_the_end_of_the_head_cuts_is_no_fault(tmp_path):
    notes: list[str] = []
    letters = "ä" * 100
    content = f"a;b\n1;{letters}\n".encode() * (HEAD_BYTES // 200)
    rows = read(tmp_path / "log.csv", b"a;b\n" + content[4:], notes)["b"]
    assert (set(rows[:3]), notes) == ({letters, "b"}, [])


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=repr)
@pytest.mark.parametrize(
    "before", [b"\n", b"\n\n\n", b"   \n", b"\xef\xbb\xbf\n", b"sep=;\n\n", b"\nsep=;\n"], ids=repr
)
def test_blank_lines_before_the_header_are_no_header(tmp_path, before, end):
    content = before + b"item_id;title\na;A\nb;B\n"
    items = read(tmp_path / "items.csv", content.replace(b"\n", end))
    assert items == {"item_id": ["a", "b"], "title": ["A", "B"]}


def test_an_empty_first_name_after_a_blank_line_stays_a_column(tmp_path):
    assert read(tmp_path / "items.csv", b"\n\titem_id\n0\ta\n1\tb\n") == {"": ["0", "1"], "item_id": ["a", "b"]}


def test_a_header_beyond_utf_8_over_rows_in_utf_8_changes_no_row(tmp_path):
    content = "item_id;title;Größe\n".encode("cp1252") + "1;Grüner Tee;L\n2;Café Crème;M\n".encode()
    found = read(tmp_path / "items.csv", content)
    assert found == {"item_id": ["1", "2"], "title": ["Grüner Tee", "Café Crème"], "Größe": ["L", "M"]}


@pytest.mark.parametrize("before", [b"\n", b"\r\n", b"sep=,\n", b"sep=,\r\n"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_lines_above_the_header_may_end_in_another_way(tmp_path, before, end):
    found = read(tmp_path / "log.csv", before + end.join([b"user,item", b"u,a", b"v,b", b""]))
    assert found == {"user": ["u", "v"], "item": ["a", "b"]}


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("header", [b'"item\nid",b', b"'item\nid','b'", b'user,"item\r\nid"', b'"a\n\nb",c'])
def test_a_name_in_the_header_may_hold_a_line_break(tmp_path, header, end):
    rows = [b"%d,%d" % (number, number) for number in range(1000)]
    found = read(tmp_path / "log.csv", end.join([header, *rows, b""]))
    assert [len(column) for column in found.values()] == [1000, 1000]


@pytest.mark.parametrize("content", [b"\n \n", b"sep=;\n", b"\nsep=;\n\n"])
def test_a_file_without_a_header_is_an_error_in_words(tmp_path, content):
    with pytest.raises(UnigrecError, match="holds blank lines alone"):
        read(tmp_path / "items.csv", content)
