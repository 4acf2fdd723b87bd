"""Tests of the part profile of the speed benchmark: the costs of operators, and the tables."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from benchmarks.speed.harness import Options
from benchmarks.speed.profile import QUIET, OperatorTimes, run, table

from unigrec.core.models.cpu.operators import matmul


def test_products_and_attention_are_charged_their_multiplications_and_additions():
    with OperatorTimes() as times, torch.inference_mode():
        torch.mm(torch.ones(2, 3), torch.ones(3, 5))
        matmul(torch.ones(20, 3), torch.ones(5, 3))
        F.scaled_dot_product_attention(*(torch.ones(1, 2, 4, 8),) * 3)
        torch.ones(7).exp()
    costs = [cost.operations for cost in times.costs.values() if cost.operations]
    assert costs == [2 * 2 * 3 * 5, 2 * 20 * 3 * 5, 2 * 2 * 2 * 4 * 4 * 8]
    assert times.costs["exp"].calls == 1


def test_what_no_row_shows_is_everything_else():
    rows = [[f"operator {number}", 1, 0.1, 0] for number in range(20)]
    *shown, rest, whole = table("a title", {"total": 3.0, "rate": 100.0, "rows": rows}).rows
    assert (rest["operator"], rest["calls"]) == (QUIET, 20 - len(shown))
    assert sum(row["CPU ms"] for row in (*shown, rest)) == pytest.approx(whole["CPU ms"])


@pytest.mark.slow
def test_every_table_is_measured(tmp_path: Path):
    for found in run(Options(tmp_path, quick=True)):
        assert found.rows[-1]["GFLOP"] > 0
