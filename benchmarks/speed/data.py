"""Ingest, validate and prepare on up to 20 million interactions, and prepare compared with pandas.

Every stage runs as its command, in its own process.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.speed.harness import Options, Table, Usage, in_child, run_command, say
from benchmarks.speed.project import UNIGREC, make_project
from unigrec.base import files
from unigrec.base.paths import Artifacts

SIZES, QUICK_SIZES = (200_000, 2_000_000, 20_000_000), (4_000,)
STAGES = ("ingest", "validate", "prepare")
K_CORE = 5
SOURCE = "source"  # folder of the generated tables, inside the project
PANDAS = "pandas"  # name of the row and of the folder with its results
DAY, DAYS, START = 86_400, 2_000, 1_200_000_000
TARGET_SECONDS, TARGET_BYTES = 60, 4e9


def run(options: Options) -> list[Table]:
    rows: list[dict[str, Any]] = []
    for interactions in QUICK_SIZES if options.quick else SIZES:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(Path(folder), interactions)
    notes = [
        "Generated data: history lengths and item popularity have long tails, and times are whole days. "
        "Before the 5-core there is one user per 10 interactions and one item per 20 interactions.",
        f"pandas: the same work as prepare, from and to Parquet: drop_duplicates, groupby(...).transform('size') until "
        f"the {K_CORE}-core is left, sort_values, factorize, groupby(...).cumcount for the split; the same sequences.",
        f"Target: prepare 20 million interactions in less than {TARGET_SECONDS} s and {TARGET_BYTES / 1e9:.0f} GB.",
    ]
    return [Table("the stages of the data", rows, notes)]


def measure(project: Path, interactions: int) -> list[dict[str, Any]]:
    """Measure one size; returns its rows. Leaves the outputs of the stages and of pandas in the project's folder."""
    (project / SOURCE).mkdir()
    in_child(write_source, folder=str(project / SOURCE), interactions=interactions)
    make_project(project, "--data", SOURCE, "--set", f"prepare.k_core={K_CORE}")
    commands = {stage: [*UNIGREC, "stage", stage] for stage in STAGES}
    call = f"from benchmarks.speed.data import pandas_prepare; pandas_prepare({str(project)!r})"
    commands[PANDAS] = [sys.executable, "-c", call]
    rows = []
    for name, command in commands.items():
        usage = run_command(command, folder=project)
        if usage.code:
            raise RuntimeError(f"{name} of {interactions:,} interactions ended with code {usage.code}")
        rows.append(_row(name, interactions, usage))
        say(f"data: {interactions:,} interactions: {name} {usage.cpu:.1f} s CPU, {usage.peak / 1e9:.2f} GB")
    prepare, pandas = rows[-2], rows[-1]
    left = files.read_json(project / Artifacts().prepare_stats)["after"]["interactions"]
    for row in (prepare, pandas):
        row["left"] = left
    pandas |= {
        "CPU, times ours": pandas["CPU s"] / prepare["CPU s"],
        "memory, times ours": pandas["peak GB"] / prepare["peak GB"],
    }
    return rows


def _row(name: str, interactions: int, usage: Usage) -> dict[str, Any]:
    return {
        "interactions": interactions,
        "what": name,
        "CPU s": usage.cpu,
        "wall s": usage.wall,
        "peak GB": usage.peak / 1e9,
    }


def write_source(folder: str, interactions: int, seed: int = 0) -> None:
    """Write `interactions.parquet` and `items.parquet` as a shop has them: ids in no order, rows in time order."""
    generator = np.random.default_rng(seed)
    users, items = max(interactions // 10, 1), max(interactions // 20, 1)
    length = generator.lognormal(1.2, 1.2, users)  # scaled below, so that the lengths have the right sum
    user = generator.choice(users, interactions, p=length / length.sum()).astype(np.int32)
    weight = 1.0 / (np.arange(items) + 10.0)
    item = generator.choice(items, interactions, p=weight / weight.sum()).astype(np.int32)
    day = np.sort(generator.integers(0, DAYS, interactions))
    table = pa.table(
        {
            "user_id": _ids("A", users, generator).take(pa.array(user)),
            "item_id": (item_ids := _ids("B", items, generator)).take(pa.array(item)),
            "timestamp": pa.array(START + day * DAY),
        }
    )
    pq.write_table(table, Path(folder) / "interactions.parquet")
    titles = pa.array([f"Title of item {number}" for number in range(items)])
    pq.write_table(pa.table({"item_id": item_ids, "title": titles}), Path(folder) / "items.parquet")


def _ids(prefix: str, count: int, generator: np.random.Generator) -> pa.Array:
    """Distinct ids of ten characters, in no order."""
    numbers = generator.permutation(count).astype(np.int64) * 7_919 + 1_000_003
    return pa.array([f"{prefix}{number:09X}" for number in numbers.tolist()])


def pandas_prepare(project: str) -> None:
    """Do the work of `prepare` as one would write it with pandas. Writes the results to the folder `pandas`."""
    import pandas as pd

    folder = Path(project)
    log = pd.read_parquet(folder / Artifacts().interactions).drop_duplicates()
    left = 0
    while left != len(log):
        left = len(log)
        log = log[log.groupby("user_id")["item_id"].transform("size") >= K_CORE]
        log = log[log.groupby("item_id")["user_id"].transform("size") >= K_CORE]
    log = log.sort_values(["user_id", "timestamp"], kind="stable")
    log["user_index"], user_ids = pd.factorize(log["user_id"], sort=True)
    log["item_index"], item_ids = pd.factorize(log["item_id"], sort=True)
    back = log.groupby("user_index").cumcount(ascending=False)
    log["split"] = pd.cut(back, [-1, 0, 1, len(log)], labels=["test", "validation", "train"])
    counts = log.loc[log["split"] == "train", "item_index"].value_counts().reindex(range(len(item_ids)), fill_value=0)
    texts = pd.read_parquet(folder / Artifacts().items).set_index("item_id").loc[item_ids].reset_index()
    shutil.rmtree(folder / PANDAS, ignore_errors=True)
    (folder / PANDAS).mkdir()
    log[["user_index", "item_index", "timestamp", "split"]].to_parquet(folder / PANDAS / "sequences.parquet")
    pd.DataFrame({"user_id": user_ids}).to_parquet(folder / PANDAS / "users.parquet")
    texts.assign(train_count=counts).to_parquet(folder / PANDAS / "items.parquet")
