"""`unigrec audience`, `unigrec segments` and `unigrec lookalike`: what is printed, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from support.command_line import invoke
from support.project import PARAMS_FILE
from support.tiny_model import bundle_in


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("audience")
    bundle_in(folder).rename(folder / "bundle")
    shutil.copy(PARAMS_FILE, folder)
    rows = [f"u{user},P{3 + (user + step) % 9},{step}" for user in range(50) for step in range(3)]
    (folder / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows, "x,gone,1"]))
    for count in (5, 25):
        (folder / f"{count}.txt").write_text("\n".join(f"u{user}" for user in range(count)))
    return folder


@pytest.fixture(autouse=True)
def inside(project, monkeypatch):
    monkeypatch.chdir(project)


def test_an_audience_is_a_csv_of_users(project):
    asked = ["--item", "P5", "--histories", "log.csv", "-k", "2", "--model", "./bundle"]
    code, output = invoke("audience", *asked)
    assert (code, "user_id,score" in output, "1 of 51 users have no item" in output) == (0, True, True), output
    code, output = invoke("audience", *asked[:1], "gone", *asked[2:])
    assert (code, "no item 'gone' in the catalogue" in output) == (2, True)


def test_segments_are_a_table_or_json_and_need_ten_users_each():
    asked = ["--histories", "log.csv", "--model", "./bundle"]
    code, output = invoke("segments", "-k", "3", *asked)
    assert (code, "1 of 51 users have no item" in output, "50 users; agreement" in output) == (0, True, True), output
    code, output = invoke("segments", "-k", "3", "--parts", "2", "--json", *asked)
    found = json.loads(output)
    sizes = {row["segment"]: row["users"] for row in found["segments"]}
    assert sum(size for name, size in sizes.items() if "." not in name) == 50 == len(found["of_users"])
    assert sizes["1.1"] == sum(place == "1.1" for place in found["of_users"].values())
    assert (code, sizes["1"]) == (0, sizes["1.1"] + sizes.get("1.2", 0))
    code, output = invoke("segments", *asked)
    assert (code, "12 segments need at least 120: lower -k" in output) == (2, True)


def test_lookalikes_leave_the_seeds_out_and_need_twenty(project):
    asked = ["--histories", "log.csv", "--model", "./bundle"]
    code, output = invoke("lookalike", "--seed", "25.txt", *asked)
    assert (code, "25 of 25 seeds read; AUC of unseen seeds" in output) == (0, True), output
    users = {line.partition(",")[0] for line in output.splitlines() if line.startswith("u") and "," in line}
    assert users - {"user_id"} == {f"u{user}" for user in range(25, 50)}
    code, output = invoke("lookalike", "--seed", "5.txt", *asked)
    assert (code, "5 of the 5 seeds have a history" in output) == (2, True)


@pytest.mark.parametrize(
    "asked", [["audience", "--item", "P5"], ["segments", "-k", "2"], ["lookalike", "--seed", "25.txt"]], ids=" ".join
)
def test_what_was_read_in_another_way_is_told(project, asked):
    rows = (project / "log.csv").read_text().splitlines()
    moved = [row.rpartition(",")[0] + f",{1_700_000_000_000 + number}" for number, row in enumerate(rows[1:])]
    (project / "late.csv").write_text("\n".join([rows[0], *moved]))
    code, output = invoke(*asked, "--histories", "late.csv", "--model", "./bundle")
    assert (code, "late.csv: column 'timestamp' holds milliseconds" in output) == (0, True), output
