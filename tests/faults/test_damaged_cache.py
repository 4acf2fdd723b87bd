"""A file in DVC's cache or in a stage's output is damaged: no later stage reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from flows.stages.processes import run_stage


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project with two stages in a row, both up to date."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("the data\n")
    stages = {
        "first": {"cmd": "cp a b && echo once >> first.log", "deps": ["a"], "outs": ["b"]},
        "second": {"cmd": "cp b c && echo once >> second.log", "deps": ["b"], "outs": ["c"]},
    }
    Repo.init(str(tmp_path), no_scm=True).close()
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    reproduce()
    return tmp_path


def reproduce() -> None:
    for stage in ("first", "second"):
        run_stage(stage, lambda line: None)


def times_run(stage: str) -> int:
    return len(Path(f"{stage}.log").read_text().splitlines())


def cache_entries() -> list[Path]:
    return [path for path in Path(".dvc/cache/files").rglob("*") if path.is_file()]


def damage(path: Path, content: str) -> None:
    path.chmod(0o644)
    path.unlink()
    path.write_text(content)


@pytest.mark.slow
@pytest.mark.parametrize("content", ["THE DATA\n", "the", ""], ids=["changed", "truncated", "empty"])
def test_a_damaged_cache_entry_is_made_again(project, content):
    for entry in cache_entries():
        damage(entry, content)
    for output in ("b", "c"):
        Path(output).unlink()
    reproduce()
    assert Path("c").read_text() == "the data\n"
    assert times_run("first") == 2


@pytest.mark.slow
def test_a_damaged_output_is_made_again_before_anybody_reads_it(project):
    damage(Path("b"), "THE DATA\n")
    damage(Path("c"), "THE DATA\n")
    reproduce()
    assert Path("b").read_text() == Path("c").read_text() == "the data\n"
