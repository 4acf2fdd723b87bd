"""The part of the speed benchmark on torch.compile: every row does the same work, and the tables are filled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from benchmarks.speed.harness import Options

from benchmarks.speed import compiled
from unigrec.core.models import inference, layers, recommender
from unigrec.core.models.cpu import operators
from unigrec.core.retrieval import decoder_cache

OTHERS = {compiled.PLAIN, compiled.COMPILED}


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process is set up as a stage is, and compiles: leave neither to the tests that follow."""
    monkeypatch.setenv(compiled.CACHE, "")
    monkeypatch.setattr(compiled, "training_device", lambda: None)
    yield
    torch.compiler.reset()


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_our_kernels(tmp_path: Path):
    found = compiled.differences(artifacts=None, quick=True, cache=str(tmp_path), backend="eager")
    assert set(found) == OTHERS
    assert all(0 < row["gradient"] < 1e-4 for row in found.values())  # 0: the same kernels computed
    assert all(row["loss"] < 1e-4 for row in found.values())  # where both multiply with MKL, it can be the same


@pytest.mark.slow
def test_lists_are_those_of_our_decoding(tmp_path: Path):
    found = compiled.lists_differ(artifacts=None, quick=True, cache=str(tmp_path), backend="eager")
    assert set(found) == OTHERS
    assert all(row["same"] > 0.99 and 0 < row["score"] < 1e-4 for row in found.values())


def test_on_the_plain_path_nothing_of_ours_computes(tmp_path: Path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a kernel of ours")

    for module, name in (
        (operators.LinearFunction, "apply"),
        (operators.RMSNormFunction, "apply"),
        (operators, "cpu_matmul"),
        (layers, "draw_dropout_mask"),
        (recommender.fused, "attention"),
        (recommender.fused, "feed_forward"),
        (inference, "product"),
        (decoder_cache.DecoderCache, "step"),
    ):
        monkeypatch.setattr(module, name, refuse)
    step = compiled.Steps(compiled.PLAIN, None, True, str(tmp_path))
    search = compiled.Search(compiled.PLAIN, None, True, str(tmp_path))
    with step.stack, search.stack:
        assert step.round(0, 1) > 0
        search.round(0, [False])
    with pytest.raises(AssertionError, match="a kernel of ours"):
        step.round(0, 1)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_row_is_measured(tmp_path: Path):
    steps, searches, public = compiled.run(Options(tmp_path, quick=True))
    for table, names in ((steps, compiled.ROWS), (searches, compiled.ROWS), (public, compiled.PUBLIC_ROWS)):
        assert [row.get("step", row.get("what")) for row in table.rows] == list(names)
        assert [row["graphs"] > 0 for row in table.rows] == ["torch.compile" in name for name in names]
