"""`unigrec recommend`: what it prints, how it reads ids, and its exit codes."""

from __future__ import annotations

import json
import os
import threading

import pytest
from typer.testing import CliRunner

from support.command_line import invoke
from support.tiny_model import item_ids
from unigrec.base import paths
from unigrec.base.errors import EXIT_BAD_INPUT, EXIT_OK, UnigrecError
from unigrec.cli import app
from unigrec.commands.recommend import parse_ids, read_ids


def recommended(*arguments: str) -> dict:
    code, output = invoke("recommend", "--json", *arguments)
    assert code == EXIT_OK, output
    return json.loads(output)


def test_recommend_prints_items_titles_and_scores(registered, monkeypatch):
    monkeypatch.chdir(registered)
    code, output = invoke("recommend", "--history", "P3,gone", "-k", "2")
    assert code == EXIT_OK
    assert "1 of 2 items of the history are not in the catalogue" in output
    assert output.count("  title ") == 3  # the heading and two items


def test_ways_to_name_a_history_and_a_model(registered, monkeypatch):
    monkeypatch.chdir(registered)
    expected = recommended("--history", '["a,b", "P3"]')["items"]
    assert len(expected) == 10
    assert recommended("--history", "a,b", "--history", "P3")["items"] == expected
    bundle = str(next((registered / paths.BUNDLES).iterdir()))
    for model in ("1", "challenger", bundle):
        assert recommended("--history", '["a,b", "P3"]', "--model", model)["items"] == expected


def test_allow_and_deny_take_ids_and_files(registered, monkeypatch, tmp_path):
    monkeypatch.chdir(registered)
    (tmp_path / "allow.txt").write_text("two words\nквас\na,b\n", encoding="utf-8")
    items = recommended("--history", "P3", "--allow", str(tmp_path / "allow.txt"), "--allow", "P5", "--deny", "a,b")
    assert {item["item_id"] for item in items["items"]} == {"two words", "квас", "P5"}


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbfP3\r\nP4\r\n", b"  P3\t\nP4 \n", b"P3\n\n \nP4"],
    ids=["a byte order mark", "blanks around ids", "empty lines"],
)
def test_a_list_as_editors_write_it_denies_every_item_in_it(registered, monkeypatch, tmp_path, content):
    monkeypatch.chdir(registered)
    (tmp_path / "deny.txt").write_bytes(content)
    items = recommended("--history", "P5", "--deny", str(tmp_path / "deny.txt"))["items"]
    assert {item["item_id"] for item in items} == set(item_ids()) - {"P3", "P4"}


def test_what_ranks_the_items_may_be_named(registered, monkeypatch):
    monkeypatch.chdir(registered)
    found = {by: recommended("--history", "P3", "--rank-by", by)["items"] for by in ("generative", "dense", "fused")}
    assert recommended("--history", "P3")["items"] == found["generative"]  # what this bundle ships
    assert found["dense"] != found["generative"] != found["fused"] != found["dense"]


def test_an_unknown_way_to_rank_is_refused_with_those_that_there_are(registered, monkeypatch):
    monkeypatch.chdir(registered)
    code, output = invoke("recommend", "--history", "P3", "--rank-by", "best")
    words = " ".join(output.split())
    assert code == 2, output
    assert "'best' is not one of 'fused', 'generative', 'dense'" in words


def test_ids_that_the_catalogue_does_not_know_are_counted_on_standard_error(registered, monkeypatch):
    monkeypatch.chdir(registered)
    options = ["--deny", "P4", "--deny", "gone", "--deny", "gone", "--allow", "P3", "--allow", " P5 "]
    done = CliRunner().invoke(app, ["recommend", "--history", "P3", *options, "--json"])
    assert done.stderr == "--deny: 1 of 2 item ids are not in the catalogue\n"
    assert {item["item_id"] for item in json.loads(done.stdout)["items"]} == {"P3", "P5"}


@pytest.mark.parametrize("value", ["deny.txt", "DENY.CSV", "d.tsv", "lists/deny", "./P3", f"/{'x' * 300}"])
def test_a_list_that_is_no_file_is_bad_input(registered, monkeypatch, value):
    monkeypatch.chdir(registered)
    for option in ("--allow", "--deny"):
        code, output = invoke("recommend", "--history", "P3", option, value)
        assert (code, f"{option} {value}: no such file" in output) == (2, True), output


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "a folder"),
        (b"P3\n\x00\x01P4\n", "binary"),
        ("P3\n".encode("utf-16"), "UTF-8"),
        ("кв\n".encode("cp1251"), "UTF-8"),
        (b"PAR1\x15\x04\xff\xfe", "UTF-8"),
    ],
)
@pytest.mark.parametrize("option", ["--allow", "--deny"])
def test_what_is_no_list_of_ids_is_bad_input(tmp_path, monkeypatch, option, content, says):
    monkeypatch.chdir(tmp_path)
    if content is None:
        (tmp_path / "ids").mkdir()
    else:
        (tmp_path / "ids").write_bytes(content)
    with pytest.raises(UnigrecError, match=f"{option} ids: .*{says}") as caught:
        read_ids(option, ["ids"], {"P3"})
    assert caught.value.exit_code == EXIT_BAD_INPUT


def test_an_empty_list_gets_a_word(tmp_path, capsys):
    (tmp_path / "ids").write_bytes(b"\xef\xbb\xbf\r\n \r\n")
    assert read_ids("--deny", [str(tmp_path / "ids")], {"P3"}) == set()
    assert capsys.readouterr().err == "--deny: holds no item id\n"


def test_a_list_may_come_through_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # as a shell's <(...)
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("P3\nP4\n",))
    writer.start()
    assert read_ids("--deny", [str(tmp_path / "pipe")], {"P3", "P4"}) == {"P3", "P4"}
    writer.join()


def test_ids_may_hold_separators_of_other_scripts(tmp_path):
    (tmp_path / "ids").write_text("a\u2028b\nc\x1cd\n", encoding="utf-8")
    known = {"a\u2028b", "c\x1cd"}
    assert read_ids("--allow", [str(tmp_path / "ids")], known) == known


def test_an_id_may_look_like_a_file_and_hold_blanks_around_it():
    known = {"a/b", "list.txt", " P3"}
    assert read_ids("--deny", ["a/b", "list.txt", " P3"], known) == known


@pytest.mark.parametrize("length", [256, 5000])
def test_a_value_that_is_too_long_for_a_file_name_is_an_id_or_bad_input(registered, monkeypatch, length):
    monkeypatch.chdir(registered)
    long = "x" * length
    code, output = invoke("recommend", "--history", "P3", "--deny", long)
    assert (code, "--deny: 1 of 1 item ids are not in the catalogue" in output) == (EXIT_OK, True)
    for command in (
        ["recommend", "--history", "P3", "--model", long],
        ["recommend", "--history", "P3", "--model", "9" * length],
        ["recommend", "--history", "P3", "--model", f"./{long}"],
        ["warm-start", "--from", long],
        ["gate", "--challenger", long],
        ["register", "--bundle", long],
    ):
        code, output = invoke(*command)
        assert code == 2, (command, output)
        assert "no version or alias" in output or "no such bundle" in output, (command, output)


def test_an_unknown_history_says_that_it_shows_what_is_popular(registered, monkeypatch):
    monkeypatch.chdir(registered)
    code, output = invoke("recommend", "--history", "gone", "-k", "1")
    assert (code, "most popular" in output) == (EXIT_OK, True)
    assert recommended("--history", "gone")["by_popularity"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["-k", "99"], "k = 99"), (["--model", "9"], "no version or alias '9'"), (["--model", "./no"], "no such bundle")],
)
def test_impossible_questions_are_bad_input(registered, monkeypatch, arguments, message):
    monkeypatch.chdir(registered)
    code, output = invoke("recommend", "--history", "P3", *arguments)
    assert (code, message in output) == (2, True), output


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a,b"], ["a", "b"]),
        (["a, b ,,"], ["a", "b"]),
        (["known,id"], ["known,id"]),
        (["a,b", "c"], ["a,b", "c"]),
        (['["a,b", "c"]'], ["a,b", "c"]),
        ([""], []),
    ],
)
def test_histories_are_read(values, expected):
    assert parse_ids(values, {"known,id"}) == expected


@pytest.mark.parametrize("value", ['["a"', "[1]", '[["a"]]'])
def test_broken_lists_are_refused(value):
    with pytest.raises(UnigrecError, match="--history"):
        parse_ids([value], set())


def test_a_list_of_ids_must_be_text(tmp_path):
    (tmp_path / "ids").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UnigrecError, match="expected UTF-8"):
        read_ids("--deny", [str(tmp_path / "ids")], set())
