"""What DVC says about the stages: their order, what depends on a stage, and what is stale."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from flows.stages.graph import cache_folder, read_graph

from support.flow_project import make_three_stages, reproduce, reproduce_here
from support.project import ROOT
from unigrec.base.errors import BusyError, UnigrecError


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_three_stages(tmp_path)


def test_the_projects_own_stages_come_after_what_they_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    Repo.init(str(tmp_path), no_scm=True).close()
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    graph = read_graph()
    assert sorted(graph.order) == sorted(stages)
    written: set[str] = set()
    for name in graph.order:
        read = [dep for dep in stages[name]["deps"] if dep.startswith("artifacts/")]
        assert all(any(dep == out or dep.startswith(out + "/") for out in written) for dep in read), name
        written |= set(stages[name]["outs"])
    assert graph.stale == set(stages)
    assert graph.downstream["ingest"] == set(stages) - {"ingest", "warm_start"}
    assert graph.downstream["warm_start"] == set(stages) - {"warm_start", "ingest", "validate", "prepare"}
    assert graph.downstream["gate"] == {"report"}
    assert graph.downstream["report"] == set()


def test_order_downstream_and_what_is_stale(project):
    assert read_graph() == (
        ["first", "second", "third"],
        {"first": {"second", "third"}, "second": {"third"}, "third": set()},
        {"first", "second", "third"},
    )
    reproduce_here(["first", "second", "third"])
    assert read_graph().stale == set()
    (project / "status").write_text("00")
    assert read_graph().stale == {"third"}


def test_a_folder_without_a_pipeline_is_an_error_in_words(tmp_path):
    with pytest.raises(UnigrecError, match="DVC cannot read the pipeline"):
        read_graph(str(tmp_path))


def test_two_folders_with_one_cache_share_what_stages_made(project, tmp_path_factory, monkeypatch):
    reproduce_here(["first"])
    other = tmp_path_factory.mktemp("other")
    shutil.copy(project / "a", other)
    shutil.copy(project / "dvc.yaml", other)
    assert cache_folder(str(project)) == project / ".dvc/cache"
    Repo.init(str(other), no_scm=True).close()
    (other / ".dvc/config.local").write_text(f"[cache]\n    dir = {cache_folder(str(project))}\n")
    monkeypatch.chdir(other)
    assert reproduce(["first"]) == [False]
    assert (other / "b").read_text() == "1"


def test_where_another_dvc_is_at_work_nothing_is_repaired(project):
    reproduce_here(["first"])
    before = (project / "dvc.lock").read_bytes()
    with Repo(str(project)) as repo, repo.lock, pytest.raises(BusyError, match="another DVC command is at work"):
        read_graph()
    assert (project / "dvc.lock").read_bytes() == before
    assert sorted(project.glob("dvc.lock*")) == [project / "dvc.lock"]
