"""The disk fills up during each stage: no file is half-written, and the same command finishes when there is space."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.tiny_pipeline import DATA_STAGES, MODEL_STAGES, inside, outputs, params, run, write_shop
from unigrec.base import paths
from unigrec.base.errors import UnigrecError
from unigrec.commands.bundles import assemble


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Make the system refuse to let a file grow, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def project(tmp_path_factory, names: tuple[str, ...]) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("project") / "shop"
    write_shop(folder)
    with inside(folder):
        run(*names)
        yield folder


@pytest.fixture(scope="module")
def with_data(tmp_path_factory) -> Iterator[Path]:
    yield from project(tmp_path_factory, DATA_STAGES)


@pytest.fixture(scope="module")
def with_model(tmp_path_factory) -> Iterator[Path]:
    yield from project(tmp_path_factory, DATA_STAGES + MODEL_STAGES)


def fill_the_disk_in(stage: str) -> None:
    whole = outputs(stage)
    for size in (64, max(map(len, whole.values())) - 1):  # the first file fails, then the largest
        for path in whole:
            path.unlink(missing_ok=True)
        with no_file_larger_than(size), pytest.raises(UnigrecError, match="could not be written"):
            run(stage)
        assert [path for path in Path().rglob("*") if path.name.endswith(".tmp")] == []
        left = {path: path.read_bytes() for path in whole if path.exists()}
        assert left.items() < whole.items()
    run(stage)
    assert outputs(stage) == whole


@pytest.mark.parametrize("stage", DATA_STAGES)
def test_a_stage_of_the_data(with_data, capsys, stage):
    fill_the_disk_in(stage)


@pytest.mark.slow
@pytest.mark.parametrize("stage", MODEL_STAGES)
def test_a_stage_of_the_model(with_model, capsys, stage):
    fill_the_disk_in(stage)
    assert not (paths.CHECKPOINTS / stage).exists()


@pytest.mark.slow
def test_a_bundle(with_model, capsys):
    whole = assemble(params(), Path("params.yaml"))
    files = {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    shutil.rmtree(whole)
    for size in (64, max(map(len, files.values())) - 1):
        with no_file_larger_than(size), pytest.raises(UnigrecError, match="could not be written"):
            assemble(params(), Path("params.yaml"))
        assert list(paths.BUNDLES.iterdir()) == []
    again = assemble(params(), Path("params.yaml"))
    assert again == whole
    assert {path.relative_to(whole) for path in whole.rglob("*") if path.is_file()} == set(files)
