"""CPU time per operator, and how close the matrix products come to the machine's peak.

The time is CPU time, not wall time, so a busy machine does not change the order of the operators. Timing itself costs
a few microseconds per operator, which count for no operator.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.speed import decoding, training
from benchmarks.speed.harness import Options, Table, in_child, say

JOINT, LONG, EVALUATION = (
    "a joint training step, fp32",
    "the same, histories of 200 items",
    "evaluation, one list per user",
)
ATTENTION = ("aten::scaled_dot_product_attention", "aten::_scaled_dot_product_flash_attention_for_cpu")
MOST = 14  # rows of a table; the other operators are summed in one row
LONG_SAMPLES = 32
QUIET = "everything else"


@dataclass
class Cost:
    """Cost of one operator: calls, CPU seconds, operations of matrix products."""

    calls: int = 0
    seconds: float = 0.0
    operations: int = 0


class OperatorTimes(TorchDispatchMode):
    """Context manager that sums the cost of the called operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: dict[str, Cost] = defaultdict(Cost)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        started = time.thread_time()
        result = func(*args, **(kwargs or {}))
        taken = time.thread_time() - started
        cost = self.costs[func._schema.name.removeprefix("aten::")]
        cost.calls += 1
        cost.seconds += taken
        cost.operations += operations(func, args, kwargs or {}, result)
        return result


def operations(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Multiplications and additions of a matrix product or of attention; 0 for any other operator."""
    name = func._schema.name
    if name == "mkldnn::_linear_pointwise":
        return 2 * args[0].numel() * int(result.shape[-1])
    if name in ATTENTION:
        query, key = args[:2]
        return 4 * query.numel() * int(key.shape[-2])
    if name in ("aten::linear", "aten::matmul"):
        return 2 * args[0].numel() * int(result.shape[-1])
    count = flop_registry.get(func._overloadpacket)
    return int(count(*args, **kwargs, out_val=result)) if count else 0


def profiled(call: Callable[[], Any], matmul_rate: float) -> dict[str, Any]:
    """Call three times: to warm up, to measure the total time, to measure the operators."""
    call()
    started = time.process_time()
    call()
    total = time.process_time() - started
    with OperatorTimes() as times:
        call()
    costs = sorted(times.costs.items(), key=lambda entry: -entry[1].seconds)
    rows = [[name, cost.calls, cost.seconds, cost.operations] for name, cost in costs]
    return {"total": total, "rate": matmul_rate, "rows": rows}


def joint(artifacts: str | None, quick: bool) -> dict[str, Any]:
    steps = training.Steps(training.OURS, artifacts, quick)
    rate = training.matmul_rate(torch.float32, 256 if quick else 2048)
    return profiled(lambda: steps.round(0, 1 if quick else 4), rate)


def long_histories(artifacts: str | None, quick: bool) -> dict[str, Any]:
    del artifacts  # no user has such a long history
    length, samples = (3, 4) if quick else (training.LENGTHS[-1], LONG_SAMPLES)
    steps = training.Steps(training.OURS, None, quick)
    batch = training.histories_of(length, samples, steps.data.sequences.catalogue_size)
    rate = training.matmul_rate(torch.float32, 256 if quick else 2048)
    return profiled(lambda: steps.step(batch, length), rate)


def evaluation(artifacts: str | None, quick: bool) -> dict[str, Any]:
    row = decoding.Row(decoding.OURS, artifacts, quick)
    rate = training.matmul_rate(torch.float32, 256 if quick else 2048)
    return profiled(lambda: row.round(0, [False]), rate)


def run(options: Options) -> list[Table]:
    given: dict[str, Any] = {
        "artifacts": str(options.artifacts.absolute()) if options.artifacts else None,
        "quick": options.quick,
    }
    tables = []
    for title, function in {JOINT: joint, LONG: long_histories, EVALUATION: evaluation}.items():
        found, _ = in_child(function, **given)
        say(f"profile of {title}: {found['total']:.2f} s")
        tables.append(table(title, found))
    return tables


def table(title: str, found: dict[str, Any]) -> Table:
    """Rows for the operators that take the most time, for all others, and for the sum."""
    total, rate = found["total"], found["rate"]
    names = [[name, Cost(*cost)] for name, *cost in found["rows"]]
    rows = [_row(name, cost, total, rate) for name, cost in names[:MOST]]
    everything = Cost(sum(c.calls for _, c in names), total, sum(c.operations for _, c in names))
    shown = sum(cost.seconds for _, cost in names[:MOST])
    rest = Cost(sum(cost.calls for _, cost in names[MOST:]), max(total - shown, 0.0))
    rows += [_row(QUIET, rest, total, rate), _row("all", everything, total, rate)]
    note = (
        f"One thread, CPU time. A large matrix product reaches {rate:.0f} GFLOP/s on this machine, by the faster of "
        f"torch and oneDNN. {QUIET}: smaller operators, Python, and the calls themselves."
    )
    return Table(title, rows, [note])


def _row(name: str, cost: Cost, total: float, rate: float) -> dict[str, Any]:
    row = {"operator": name, "calls": cost.calls, "CPU ms": cost.seconds * 1e3, "share of time": cost.seconds / total}
    if not cost.operations or not cost.seconds:
        return row
    per_second = cost.operations / cost.seconds / 1e9
    return row | {"GFLOP": cost.operations / 1e9, "GFLOP/s": per_second, "share of peak": per_second / rate}
