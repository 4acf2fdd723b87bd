"""`python -m benchmarks.spark_prepare`: the stage `prepare` on both engines, from a log in partitions: time and memory.

The log is generated partition by partition, so that its size is bounded by the disk. Both engines run the command
`unigrec stage prepare` in a process of their own and must write the same bytes. Needs requirements-spark.lock.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.speed.data import DAY, DAYS, K_CORE, START
from benchmarks.speed.harness import in_child, say
from benchmarks.speed.project import UNIGREC, make_project, must, path_of_tools
from unigrec.base import files
from unigrec.base.markdown import markdown_table
from unigrec.base.paths import Artifacts

SIZES = (2_000_000, 20_000_000)
ROWS_PER_PARTITION = 1_000_000
ENGINES = ("local", "spark")
LOOK_SECONDS = 0.2  # between two looks at the memory
PRIME = 2_147_483_647  # numbers below it are permuted by a product


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="interactions")
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=ENGINES)
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--memory", default="4g", help="of Spark's JVM")
    parser.add_argument("--folder", type=Path, help="where the log and Spark's files lie for a while")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for size in options.sizes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rows += measure(Path(folder), size, options)
    print(markdown_table(list(rows[0]), [[_shown(value) for value in row.values()] for row in rows]))


def _shown(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def measure(project: Path, interactions: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the engines on one log; a row per engine."""
    make_project(project, "--set", f"prepare.k_core={K_CORE}")
    artifacts = Artifacts(project / "artifacts")
    in_child(write_log, folder=str(artifacts.folder("ingest")), interactions=interactions)
    spill = f"{{spark.driver.memory: {options.memory}, spark.local.dir: {project}}}"
    rows, written = [], {}
    for engine in options.engines:
        settings = (f"prepare.engine={engine}", f"spark.master={options.master}", f"spark.conf={spill}")
        must([*UNIGREC, "configure", *(word for one in settings for word in ("--set", one))], project)
        usage = watched([*UNIGREC, "stage", "prepare"], project)
        written[engine] = [files.sha256(path) for path in sorted(artifacts.folder("prepare").iterdir())]
        stats = files.read_json(artifacts.prepare_stats)
        rows.append(
            {
                "interactions": interactions,
                "engine": engine,
                "wall s": usage.seconds,
                "CPU s": usage.cpu,
                "peak GB": usage.peaks["all"] / 1e9,
                "of it Python": usage.peaks["python"] / 1e9,
                "of it JVM": usage.peaks["java"] / 1e9,
                "disk GB": usage.disk / 1e9,
                "left": stats["after"]["interactions"],
                "rounds": len(stats["k_core_rounds"]),
            }
        )
        say(f"spark_prepare: {rows[-1]}")
    if len({tuple(hashes) for hashes in written.values()}) > 1:
        raise RuntimeError("the engines wrote different files")
    return rows


class Watched(NamedTuple):
    """What a command took."""

    seconds: float
    cpu: float  # seconds of all processes, up to the last look
    peaks: dict[str, int]  # resident memory: of "all", "python" and "java"
    disk: int  # bytes in use on the folder's disk, above what was in use before


def watched(command: list[str], folder: Path) -> Watched:
    """Run a command, and look at its processes again and again.

    Processes of Python and Java count. A child that Java forks has the name of a thread and shares Java's memory, so it
    would count that again. The two peaks need not be at the same moment. Raises RuntimeError if the command fails.
    """
    began, peaks = time.monotonic(), {"all": 0, "python": 0, "java": 0}
    cpu: dict[int, float] = {}
    used, disk = shutil.disk_usage(folder).used, 0
    environment = os.environ | {"PATH": path_of_tools(), "PYTHONPATH": str(folder / "src")}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=sys.stderr)
    while process.poll() is None:
        held = {"python": 0, "java": 0}
        for number in _family(process.pid):
            name, memory = _name_and_memory(number)
            cpu[number] = max(cpu.get(number, 0.0), _cpu_seconds(number))
            if (program := "python" if name.startswith("python") else name) in held:
                held[program] += memory
        for name, memory in (held | {"all": sum(held.values())}).items():
            peaks[name] = max(peaks[name], memory)
        disk = max(disk, shutil.disk_usage(folder).used - used)
        time.sleep(LOOK_SECONDS)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with code {process.returncode}")
    return Watched(time.monotonic() - began, sum(cpu.values()), peaks, disk)


def _family(root: int) -> list[int]:
    """A process and all its descendants."""
    found = [root]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:  # it has ended
                continue
    return found


def _name_and_memory(number: int) -> tuple[str, int]:
    """Name of a process's program, and its resident memory in bytes; ("", 0) if it has ended."""
    try:
        text = Path(f"/proc/{number}/status").read_text()
    except OSError:
        return "", 0
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return fields["Name"], int(fields.get("VmRSS", "0 kB").split()[0]) * 1024


def _cpu_seconds(number: int) -> float:
    """User and system time of a process; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write_log(folder: str, interactions: int, seed: int = 0) -> None:
    """Write `interactions.parquet/`, a folder of partitions in time order, and `items.parquet`.

    As `benchmarks.speed.data.write_source`: long tails of lengths and popularity, whole days, ids in no order. Memory
    is that of the users, of the items and of one partition.
    """
    generator = np.random.default_rng(seed)
    users, items = max(interactions // 10, 1), max(interactions // 20, 1)
    by_length = np.cumsum(generator.lognormal(1.2, 1.2, users))
    by_popularity = np.cumsum(1.0 / (np.arange(items) + 10.0))
    log = Path(folder) / "interactions.parquet"
    log.mkdir(parents=True)
    parts = -(-interactions // ROWS_PER_PARTITION)
    for part in range(parts):
        rows = min(ROWS_PER_PARTITION, interactions - part * ROWS_PER_PARTITION)
        day = np.sort((part + generator.random(rows)) * DAYS / parts).astype(np.int64)
        table = pa.table(
            {
                "user_id": _ids("A", _drawn(generator, by_length, rows)),
                "item_id": _ids("B", _drawn(generator, by_popularity, rows)),
                "timestamp": pa.array(START + day * DAY),
            }
        )
        pq.write_table(table, log / f"part-{part:05}.parquet", compression="zstd", write_page_checksum=True)
    numbers = [np.arange(low, min(low + ROWS_PER_PARTITION, items)) for low in range(0, items, ROWS_PER_PARTITION)]
    files.write_tables(
        Path(folder) / "items.parquet",
        (
            pa.table(
                {
                    "item_id": _ids("B", some),
                    "title": pc.binary_join_element_wise("Title of item", pa.array(some).cast(pa.string()), " "),
                }
            )
            for some in numbers
        ),
    )


def _drawn(generator: np.random.Generator, cumulative: np.ndarray, rows: int) -> np.ndarray:
    """Draw places in proportion to their part of a cumulative sum. A search in order takes a tenth of the time."""
    moments = np.sort(generator.random(rows)) * cumulative[-1]
    return generator.permutation(np.searchsorted(cumulative, moments, side="right"))


def _ids(prefix: str, numbers: np.ndarray) -> pa.Array:
    """Distinct ids of eleven characters, in no order. numbers: below PRIME."""
    mixed = (numbers.astype(np.int64) + 1) * 1_000_003 % PRIME
    digits = pc.utf8_lpad(pa.array(mixed).cast(pa.string()), 10, "0")
    return pc.binary_join_element_wise(prefix, digits, "")


if __name__ == "__main__":
    from benchmarks import spark_prepare  # by its name, so that a process of its own finds its functions

    spark_prepare.main()
