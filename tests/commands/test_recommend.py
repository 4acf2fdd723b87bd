"""The commands on a registered model: what they print, how they read ids, and their exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from support.command_line import invoke
from support.project import PARAMS_FILE
from support.tiny_model import item_ids, make_bundle, write_artifacts
from unigrec.base import files, paths
from unigrec.base.errors import EXIT_OK, EXIT_REFUSED, UnigrecError
from unigrec.base.paths import Artifacts
from unigrec.cli import app
from unigrec.commands.recommend import parse_ids, read_ids
from unigrec.pipeline import stages
from unigrec.pipeline.summary import Summary, markdown, next_steps, print_summary, summarise
from unigrec.promotion import audit, judge


@pytest.fixture(scope="module")
def registered(tmp_path_factory) -> Path:
    """A folder with a tiny champion in its own store."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("project")
    os.chdir(folder)
    try:
        (folder / "params.yaml").write_text(PARAMS_FILE.read_text())
        make_bundle()
        assert invoke("register")[0] == invoke("promote")[0] == EXIT_OK
        return folder
    finally:
        os.chdir(before)


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


def test_ids_that_the_catalogue_does_not_know_are_counted_on_standard_error(registered, monkeypatch):
    monkeypatch.chdir(registered)
    options = ["--deny", "P4", "--deny", "gone", "--deny", "gone", "--allow", "P3", "--allow", " P5 "]
    done = CliRunner().invoke(app, ["recommend", "--history", "P3", *options, "--json"])
    assert done.stderr == "--deny: 1 of 2 item ids are not in the catalogue\n"
    assert {item["item_id"] for item in json.loads(done.stdout)["items"]} == {"P3", "P5"}


@pytest.mark.parametrize("value", ["deny.txt", "DENY.CSV", "lists/deny", "./P3", f"/{'x' * 300}"])
def test_a_list_that_is_no_file_is_bad_input(registered, monkeypatch, value):
    monkeypatch.chdir(registered)
    for option in ("--allow", "--deny"):
        code, output = invoke("recommend", "--history", "P3", option, value)
        assert (code, f"{option} {value}: no such file" in output) == (2, True), output


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


def test_gate_shows_reasons_and_exits_by_the_decision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for passed, expected in ((True, EXIT_OK), (False, EXIT_REFUSED)):
        write_artifacts(0, passed, None, 0)
        code, output = invoke("gate")
        assert (code, "a | reason" in output) == (expected, True)


def test_gate_shows_a_missed_target_as_a_note_that_refuses_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_artifacts(0, True, None, 0)
    decision = files.read_json(Artifacts().decision)
    note = {"name": "hit_rate_kept", "value": 0.1, "threshold": 0.8, "reason": "little", "informational": True}
    for passed, shown in ((True, "note: met"), (False, "note: missed")):
        files.write_json(Artifacts().decision, decision | {"gates": [*decision["gates"], note | {"passed": passed}]})
        code, output = invoke("gate")
        assert (code, shown in output, "REFUSED" in output) == (EXIT_OK, True, False)


def test_gate_takes_no_decision_from_a_run_before_the_one_that_its_data_stopped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_artifacts(0, True, None, 0)
    Artifacts().validated.unlink()
    code, output = invoke("gate")
    assert (code, "stopped before its data was valid" in " ".join(output.split())) == (2, True)


def test_gate_without_a_run_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = invoke("gate")
    assert (code, "dvc repro" in output) == (2, True)


def test_a_registered_challenger_is_compared_with_the_champion(registered, monkeypatch):
    monkeypatch.chdir(registered)
    monkeypatch.setattr(judge, "probe", lambda *_, limit: [1.0])
    code, output = invoke("gate", "--challenger", "challenger")
    assert (code, "version 1 against version 1: NOT PROMOTED" in output) == (EXIT_REFUSED, True), output
    assert files.read_json(paths.COMPARISONS / "challenger-vs-champion/comparison.json")["outcome"] == "keep"
    code, output = invoke("gate", "--challenger", "1", "--champion", "previous")
    assert (code, "no version or alias 'previous'" in output) == (2, True)


def test_the_first_champion_was_judged_and_written_down(registered, monkeypatch):
    monkeypatch.chdir(registered)
    assert files.read_json(paths.COMPARISONS / "1-vs-none/comparison.json")["outcome"] == "promote"
    assert [line["event"] for line in audit.read(paths.AUDIT)] == ["intent", "done"]
    assert invoke("promote") == (EXIT_OK, "version 1 is champion: is the champion already\n")
    code, output = invoke("rollback")
    assert (code, "unigrec rollback --to VERSION" in output) == (2, True)
    assert invoke("rollback", "--to", "1") == (EXIT_OK, "version 1 stays: is the champion already\n")


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


def summary(**changes) -> Summary:
    made = summarise(
        "unigrec version 3", ["challenger"], "is not better", {"joint": 3.21, "gate": None}, "sqlite:///x.db"
    )
    return made._replace(**changes)


def test_the_closing_report_says_everything(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    write_artifacts(0, True, None, 0)
    print_summary(summary())
    printed = capsys.readouterr().out
    for part in (
        "co-occurrence",
        "0.2500",
        "a | reason",
        "3.2",
        "cached",
        "version 3, alias challenger",
        "dvc plots show",
    ):
        assert part in printed
    text = markdown(summary())
    assert r"a \| reason" in text
    assert all(line.count("|") >= 3 for line in text.splitlines() if line.startswith("|"))


def test_the_next_steps_can_be_pasted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_artifacts(0, True, None, 0)
    steps = dict(next_steps(summary(example=["it's", "a,b"])))
    assert steps["recommendations"] == """unigrec recommend --history '["it'"'"'s", "a,b"]' -k 10 --model 3"""
    assert steps["experiments"] == "mlflow ui --backend-store-uri sqlite:///x.db"
    champion = dict(next_steps(summary(aliases=["champion"], tracking_uri="sqlite:///mlflow.db")))
    assert "--model" not in champion["recommendations"]
    assert champion["experiments"] == "mlflow ui"
    assert dict(next_steps(summary(tracking_uri="http://host")))["experiments"] == "http://host"


@pytest.mark.parametrize(("origin", "compared"), [("folder: shop", True), ("sample: generator", False)])
def test_sizes_are_compared_with_a_registered_run_of_the_same_source_only(tmp_path, monkeypatch, origin, compared):
    monkeypatch.chdir(tmp_path)
    files.write_json(paths.REFERENCE, {"origin": origin, "users": 1, "items": 2, "interactions": 3})
    expected = {"users": 1, "items": 2, "interactions": 3} if compared else None
    assert stages.reference_sizes("folder: shop") == expected
