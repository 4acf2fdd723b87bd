"""simple"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import quality_runs as runs
from unigrec import artifacts as a


def collect(out: Path, ladder: Any, params_of: Any, data: Any, seeds: list[int]) -> Any:
    rows = []
    for rung in ladder:
        found = []
        for seed in seeds:
            home = runs.rung_folder(out, rung.name, params_of(rung, seed), data)
            if runs.is_done(home / "evaluate"):
                found.append(a.read_json(home / "evaluate" / a.METRICS_FILE)["student"])
        for protocol in ("unmasked", "masked"):
            if found:
                rows.append(
                    [rung.name, protocol, len(found)]
                    + [
                        round(float(np.mean([f[protocol][m] for f in found])), 4)
                        for m in ("recall_at_5", "recall_at_10", "ndcg_at_5", "ndcg_at_10")
                    ]
                )
    return rows


def write_table(out: Path, rows: Any) -> str:
    return "\n".join(map(str, rows))
