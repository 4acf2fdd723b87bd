"""What a killed DVC leaves is repaired: a half-written lock file, a half-written or outdated list of holders."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from flows.stages.dvc_state import DAMAGED_LOCK, HOLDERS, forget_dead_holders
from flows.stages.graph import read_graph

from flows.stages import graph
from unigrec.base.errors import UnigrecError
from unigrec.base.git import DVC_LOCK as LOCK

ARGUMENTS = "repro --single-item joint"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """Two stages in a row, both run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(graph, "WRITING_SECONDS", 0.0)
    (tmp_path / "a").write_text("the data\n")
    stages = {
        "first": {"cmd": "cp a b && echo once >> first.log", "deps": ["a"], "outs": ["b"]},
        "second": {"cmd": "cp b c && echo once >> second.log", "deps": ["b"], "outs": ["c"]},
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        repo.reproduce()
    return tmp_path


@pytest.mark.parametrize("share", [0.0, 0.35, 0.6, 0.9], ids=["emptied", "cut", "cut later", "cut at its end"])
def test_a_half_written_lock_file_is_made_again_without_running_a_stage_again(project, share):
    whole = Path(LOCK).read_bytes()
    Path(LOCK).write_bytes(whole[: int(share * len(whole))])
    assert read_graph().order == ["first", "second"]
    with Repo(".") as repo:
        repo.reproduce()
        assert repo.status() == {}
    assert yaml.safe_load(Path(LOCK).read_bytes()) == yaml.safe_load(whole)
    assert [Path(f"{stage}.log").read_text() for stage in ("first", "second")] == ["once\n", "once\n"]


def test_a_lock_file_that_dvc_refuses_is_kept_under_another_name(project, capsys):
    Path(LOCK).write_text("schema: '2.0'\nstages: [\n")
    assert read_graph().stale == {"first", "second"}
    assert Path(DAMAGED_LOCK).read_text() == "schema: '2.0'\nstages: [\n"
    assert capsys.readouterr().out == "dvc.lock is damaged: kept as dvc.lock.damaged, and made again from DVC's cache\n"


def test_where_the_lock_file_is_not_to_blame_it_stays(project):
    whole = Path(LOCK).read_bytes()
    Path("dvc.yaml").write_text("stages: [\n")
    with pytest.raises(UnigrecError, match=r"DVC cannot read the pipeline in \."):
        read_graph()
    assert Path(LOCK).read_bytes() == whole
    assert not Path(DAMAGED_LOCK).exists()


def write_holders(holder: dict) -> Path:
    path = Path(HOLDERS)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"read": {"/p/a": [holder]}, "write": {"/p/b": holder}}))
    return path


@pytest.mark.parametrize("content", ["", '{"read": {"/p/a', "[]", '{"read": {"/p/a": [{}]}}'])
def test_a_half_written_list_of_holders_is_removed(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = write_holders({})
    path.write_text(content)
    forget_dead_holders(".")
    assert not path.exists()


def test_a_holder_whose_number_is_another_programs_is_forgotten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_holders({"pid": os.getpid(), "cmd": f"/bin/dvc {ARGUMENTS}"})
    forget_dead_holders(".")
    assert json.loads(path.read_text()) == {"read": {}, "write": {}}


def test_a_living_holder_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sleeper = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)", *shlex.split(ARGUMENTS)]
    with subprocess.Popen(sleeper, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        path = write_holders({"pid": process.pid, "cmd": f"/bin/dvc {ARGUMENTS}"})
        before = json.loads(path.read_text())
        forget_dead_holders(".")
        process.kill()
    assert json.loads(path.read_text()) == before
