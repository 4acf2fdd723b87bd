"""`unigrec audience` and `unigrec lookalike`: what is printed, and what is refused."""

from __future__ import annotations

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


def test_lookalikes_leave_the_seeds_out_and_need_twenty(project):
    asked = ["--histories", "log.csv", "--model", "./bundle"]
    code, output = invoke("lookalike", "--seed", "25.txt", *asked)
    assert (code, "25 of 25 seeds read; AUC of unseen seeds" in output) == (0, True), output
    users = {line.partition(",")[0] for line in output.splitlines() if line.startswith("u") and "," in line}
    assert users - {"user_id"} == {f"u{user}" for user in range(25, 50)}
    code, output = invoke("lookalike", "--seed", "5.txt", *asked)
    assert (code, "5 of the 5 seeds have a history" in output) == (2, True)
